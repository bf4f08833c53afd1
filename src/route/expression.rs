//! Conditions and computed fields in CEL, the Common Expression Language (<https://cel.dev>).
//!
//! An expression is read once, with the configuration: its syntax, its variables and its functions are checked, and which columns
//! it uses is written down, so that they can be looked for in the table. A column is only named, never looked up by something
//! that is computed: so an expression that fits the table can fail only by values. Invariants: the same row gives the same
//! result, on every machine and at any time (there is no clock, and no order that changes); nothing that a row holds
//! can crash it; and no error tells a row's values. [`row`] is the row as CEL sees it.

mod check;
mod object;
pub mod row;

use std::sync::{Arc, LazyLock};

use cel::common::types::CelBool;
use cel::parser::Expression as Tree;
use cel::{Context, Env, ExecutionError, Value};

pub use check::{Image, Use};
use row::Variables;

/// Longer ones are refused, so that `STACK_BYTES` are enough to read them, however they are nested.
pub const MAX_BYTES: usize = 1_000;
/// The parser descends into what is nested. Only what is used of it takes memory.
const STACK_BYTES: usize = 256 << 20;

/// The standard functions. There is no clock among them.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib().with_optional_support(false)));

/// An expression that was read and checked.
#[derive(Debug)]
pub struct Expression {
    written: String,
    tree: Tree,
    uses: Vec<Use>,
    uses_changed: bool,
    is_guarded: bool,
}

/// Why a text is no expression that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    /// CEL's grammar says no.
    #[error("line {line}, column {column}: {what}")]
    Syntax {
        /// From 1.
        line: isize,
        /// From 1.
        column: isize,
        /// In the parser's words.
        what: String,
    },
    /// More than [`MAX_BYTES`].
    #[error("it has {0} bytes")]
    TooLong(usize),
    /// Operators within operators.
    #[error("it is nested too deeply")]
    TooDeep,
    /// None of ours.
    #[error("`{0}` is no variable")]
    Variable(String),
    /// None of CEL's.
    #[error("`{0}` is no function")]
    Function(String),
    /// `new == old`, `size(new)`, `new[op]`
    #[error("`{0}` is not used by the name of a column")]
    Whole(&'static str),
    /// `[1].all(new, …)`
    #[error("`{0}` can't be the name of an element, because it is a variable")]
    Shadow(String),
    /// `{'a': 1}.map(…)`, `[{'a': 1}].map(m, m.map(…))`
    #[error(
        "it goes through elements of what it makes with a map in it: the keys of a map that it makes have no order"
    )]
    Unordered,
    /// `Message{field: 1}`
    #[error("there are no messages")]
    Message,
}

impl ExpressionError {
    /// What to write instead.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Syntax { .. } | Self::Message => "expressions are those of https://cel.dev".to_owned(),
            Self::TooLong(_) => format!("allowed: at most {MAX_BYTES} bytes"),
            Self::TooDeep => {
                "write it with fewer parentheses, or as a list: x in ['a', 'b'] for x == 'a' || x == 'b'".to_owned()
            }
            Self::Variable(_) => {
                "allowed: old, new, op, changed, schema, table; text goes in quotes: 'paid'".to_owned()
            }
            Self::Function(_) => "allowed: the functions of https://cel.dev, except those of time".to_owned(),
            Self::Whole(_) => {
                "allowed: new.column, new[\"Column\"], has(new.column), \"column\" in new, new == null; and so for old"
                    .to_owned()
            }
            Self::Shadow(_) => "choose another name, as in list.all(element, element > 0)".to_owned(),
            Self::Unordered => {
                "all, exists, exists_one, filter and map take a column, or a list without maps; a list has an order"
                    .to_owned()
            }
        }
    }
}

/// What is refused for its depth is dropped here too, where there is the stack for it.
fn read(text: &str) -> Result<(Tree, check::Found), ExpressionError> {
    let tree = ENVIRONMENT.parser().parse(text).map_err(|errors| {
        let first = errors.errors.first();
        let (line, column) = first.map_or((1, 1), |error| error.pos);
        let what = first.map_or_else(|| errors.to_string(), |error| error.msg.clone());
        ExpressionError::Syntax { line: line.max(1), column: column.max(1), what }
    })?;
    let found = check::check(&tree)?;
    Ok((tree, found))
}

/// Why an expression has no value for a row. Tells none of its values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EvaluationError(String);

impl Expression {
    /// Reads and checks an expression.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ExpressionError> {
        if text.len() > MAX_BYTES {
            return Err(ExpressionError::TooLong(text.len()));
        }
        let read = || read(text);
        let reader = std::thread::Builder::new().stack_size(STACK_BYTES);
        let read = std::thread::scope(|scope| Ok(reader.spawn_scoped(scope, read)?.join()));
        let unread = |what: &str| ExpressionError::Syntax { line: 1, column: 1, what: what.to_owned() };
        // Neither without a thread nor by a bug of the parser is it anything else than an error.
        let read = read.map_err(|error: std::io::Error| unread(&error.to_string()))?;
        let (tree, found) = read.map_err(|_| unread("the parser failed"))??;
        Ok(Self {
            written: text.to_owned(),
            tree,
            uses: found.uses,
            uses_changed: found.changed,
            is_guarded: found.is_guarded,
        })
    }

    /// The columns that it names, each once.
    #[must_use]
    pub fn uses(&self) -> &[Use] {
        &self.uses
    }

    /// Whether it asks which columns were changed.
    #[must_use]
    pub fn uses_changed(&self) -> bool {
        self.uses_changed
    }

    /// Whether it asks for the operation, the table, what was changed, or whether there is a row or a column, so that it may well
    /// have a value where there is no such row.
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        self.is_guarded
    }

    /// Whether it holds.
    ///
    /// # Errors
    /// It has no value, or one that is neither true nor false.
    pub fn holds(&self, variables: &Variables<'_>) -> Result<bool, EvaluationError> {
        let context = context(variables);
        let value = Value::resolve_val(&self.tree, &context).map_err(|error| self.failed(&error))?;
        let holds = value.downcast_ref::<CelBool>().map(|holds| *holds.inner());
        holds.ok_or_else(|| {
            EvaluationError(format!("it is neither true nor false, but of type {}", value.get_type().name()))
        })
    }

    /// Appends its value as JSON.
    ///
    /// # Errors
    /// It has no value, or one that is no JSON.
    pub fn json(&self, variables: &Variables<'_>, out: &mut Vec<u8>) -> Result<(), EvaluationError> {
        let context = context(variables);
        let value = Value::resolve_val(&self.tree, &context).map_err(|error| self.failed(&error))?;
        let value = Value::try_from(&*value).map_err(|error| self.failed(&error))?;
        row::json(out, &value)
    }

    /// CEL's own messages quote values.
    fn failed(&self, error: &ExecutionError) -> EvaluationError {
        EvaluationError(match error {
            ExecutionError::NoSuchKey(key) if row::is_unknown(key) || self.written.contains(key.as_str()) => {
                format!("there is no {key}")
            }
            ExecutionError::NoSuchKey(_) => "there is no such key".to_owned(),
            // It names types.
            ExecutionError::NoSuchOverload(error) => error.to_string(),
            ExecutionError::UndeclaredReference(name) => format!("there is no {name}"),
            ExecutionError::UnexpectedType { got, want } => format!("there is a {got} where a {want} is needed"),
            ExecutionError::UnsupportedBinaryOperator(operator, left, right) => {
                format!("no `{operator}` for a {} and a {}", left.type_of(), right.type_of())
            }
            ExecutionError::ValuesNotComparable(left, right) => {
                format!("a {} and a {} can't be compared", left.type_of(), right.type_of())
            }
            ExecutionError::Overflow(operator, ..) => format!("`{operator}` overflows"),
            ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "it divides by zero".to_owned(),
            ExecutionError::IndexOutOfBounds(_) => "a list has no such element".to_owned(),
            ExecutionError::FunctionError { function, .. } => format!("`{function}` can't be applied to the value"),
            _ => "it can't be evaluated".to_owned(),
        })
    }
}

fn context<'v>(variables: &'v Variables<'v>) -> Context<'v, 'v> {
    let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
    context.set_variable_resolver(variables);
    context
}

#[cfg(test)]
mod tests;
