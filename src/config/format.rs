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

/// `[messages] format`, and that of `[[events]]`: around data that is the content of a message, or what a rule lets through.
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
