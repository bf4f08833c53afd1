//! `format`: how events look, by what makes them. `docs/formats/` has a page for each.

/// Events in the form of CloudEvents 1.0.2, whatever makes their data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloudEvents {
    /// The body is an object that holds the attributes and the data.
    Structured,
    /// The body is the data, the attributes are headers.
    Binary,
}

/// `[changes] format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChangeFormat {
    /// Our own row event.
    #[default]
    Plain,
    /// The row alone.
    Raw,
    /// Around our own row event.
    CloudEvents(CloudEvents),
    /// Debezium's change event.
    Debezium {
        /// Beside its schema, as Kafka Connect's JSON converter writes it.
        with_schema: bool,
    },
    /// Canal's flat message.
    Canal,
}

/// `[messages] format`: of data that is the content of a message, or what a rule lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DataFormat {
    /// Our own event.
    #[default]
    Plain,
    /// The data alone.
    Raw,
    /// Around the data.
    CloudEvents(CloudEvents),
}

/// `[[events]] format`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleFormat {
    /// Of the data that the rule lets through.
    Data(DataFormat),
    /// Of whole rows.
    Row(ChangeFormat),
}

pub(super) const OF_RULES: [(&str, RuleFormat); 7] = [
    ("plain", RuleFormat::Data(DataFormat::Plain)),
    ("raw", RuleFormat::Data(DataFormat::Raw)),
    ("cloudevents", RuleFormat::Data(DataFormat::CloudEvents(CloudEvents::Structured))),
    ("cloudevents-binary", RuleFormat::Data(DataFormat::CloudEvents(CloudEvents::Binary))),
    ("debezium", RuleFormat::Row(ChangeFormat::Debezium { with_schema: false })),
    ("debezium-schema", RuleFormat::Row(ChangeFormat::Debezium { with_schema: true })),
    ("canal", RuleFormat::Row(ChangeFormat::Canal)),
];

/// The formats of data that the application, or a rule, has made: `[outbox] format`. None: the data alone.
pub(super) const OF_DATA: [(&str, Option<CloudEvents>); 3] =
    [("raw", None), ("cloudevents", Some(CloudEvents::Structured)), ("cloudevents-binary", Some(CloudEvents::Binary))];

/// `[changes] format`, by its name.
pub(crate) const OF_CHANGES: [(&str, ChangeFormat); 7] = [
    ("plain", ChangeFormat::Plain),
    ("raw", ChangeFormat::Raw),
    ("cloudevents", ChangeFormat::CloudEvents(CloudEvents::Structured)),
    ("cloudevents-binary", ChangeFormat::CloudEvents(CloudEvents::Binary)),
    ("debezium", ChangeFormat::Debezium { with_schema: false }),
    ("debezium-schema", ChangeFormat::Debezium { with_schema: true }),
    ("canal", ChangeFormat::Canal),
];

pub(super) const OF_OWN_DATA: [(&str, DataFormat); 4] = [
    ("plain", DataFormat::Plain),
    ("raw", DataFormat::Raw),
    ("cloudevents", DataFormat::CloudEvents(CloudEvents::Structured)),
    ("cloudevents-binary", DataFormat::CloudEvents(CloudEvents::Binary)),
];
