//! What an expression names, found without a row.

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use cel::{Context, ExecutionError, Value};

use super::{ENVIRONMENT, ExpressionError};

/// Deeper ones are refused: evaluating them takes the stack of each level.
const MAX_DEPTH: usize = 50;
/// Those that are no rows.
const VARIABLES: [&str; 3] = ["op", "schema", "table"];
/// What `type(…)` is compared to.
const TYPES: [&str; 10] = ["bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type", "type"];

/// The row before the change, or after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// Before.
    Old,
    /// After.
    New,
}

impl Image {
    /// Its variable.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Old => "old",
            Self::New => "new",
        }
    }
}

/// A column that is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// Of which row.
    pub image: Image,
    /// The column's name.
    pub column: String,
    /// It is asked whether it is there.
    pub is_tested: bool,
}

#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) uses: Vec<Use>,
    pub(super) changed: bool,
    /// It asks what kind of change it is, or whether there is a row.
    pub(super) is_guarded: bool,
}

pub(super) fn check(tree: &IdedExpr) -> Result<Found, ExpressionError> {
    let mut check = Check::default();
    check.walk(tree, 0)?;
    // The map may come to where its keys are gone through by any way: out of a list, by a condition, as an element. Each process
    // hashes them in another order.
    if check.goes_through_map {
        return Err(ExpressionError::Unordered);
    }
    Ok(check.found)
}

#[derive(Default)]
struct Check<'t> {
    found: Found,
    /// The names of elements, and of what the macros keep.
    scope: Vec<&'t str>,
    makes_map: bool,
    /// What it makes may be, or hold, what it goes through.
    goes_through_map: bool,
}

impl<'t> Check<'t> {
    fn walk(&mut self, tree: &'t IdedExpr, depth: usize) -> Result<(), ExpressionError> {
        if depth > MAX_DEPTH {
            return Err(ExpressionError::TooDeep);
        }
        let depth = depth + 1;
        match &tree.expr {
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.variable(name),
            Expr::Select(select) => match image(&select.operand) {
                Some(image) => {
                    self.found.is_guarded |= select.test;
                    self.column(image, &select.field, select.test);
                    Ok(())
                }
                None => self.walk(&select.operand, depth),
            },
            Expr::Call(call) => self.call(call, depth),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension, depth),
            Expr::List(list) => list.elements.iter().try_for_each(|element| self.walk(element, depth)),
            Expr::Map(map) => {
                self.makes_map = true;
                map.entries.iter().try_for_each(|entry| match &entry.expr {
                    EntryExpr::MapEntry(entry) => {
                        self.walk(&entry.key, depth)?;
                        self.walk(&entry.value, depth)
                    }
                    EntryExpr::StructField(_) => Err(ExpressionError::Message),
                })
            }
            Expr::Struct(_) | Expr::Unspecified => Err(ExpressionError::Message),
        }
    }

    fn variable(&mut self, name: &str) -> Result<(), ExpressionError> {
        match name {
            "old" => Err(ExpressionError::Whole("old")),
            "new" => Err(ExpressionError::Whole("new")),
            "changed" => {
                (self.found.changed, self.found.is_guarded) = (true, true);
                Ok(())
            }
            _ if VARIABLES.contains(&name) => {
                self.found.is_guarded = true;
                Ok(())
            }
            _ if TYPES.contains(&name) || self.scope.contains(&name) => Ok(()),
            _ => Err(ExpressionError::Variable(name.to_owned())),
        }
    }

    fn column(&mut self, image: Image, column: &str, is_tested: bool) {
        match self.found.uses.iter_mut().find(|it| it.image == image && it.column == column) {
            Some(found) => found.is_tested |= is_tested,
            None => self.found.uses.push(Use { image, column: column.to_owned(), is_tested }),
        }
    }

    fn call(&mut self, call: &'t CallExpr, depth: usize) -> Result<(), ExpressionError> {
        if let [left, right] = call.args.as_slice() {
            let name = call.func_name.as_str();
            if name == operators::INDEX
                && let (Some(image), Some(column)) = (image(left), text(right))
            {
                self.column(image, column, false);
                return Ok(());
            }
            if name == operators::IN
                && let (Some(column), Some(image)) = (text(left), image(right))
            {
                self.found.is_guarded = true;
                self.column(image, column, true);
                return Ok(());
            }
            let is_null = |tree: &IdedExpr| matches!(tree.expr, Expr::Literal(LiteralValue::Null));
            let is_comparison = name == operators::EQUALS || name == operators::NOT_EQUALS;
            if is_comparison && (image(left).is_some() && is_null(right) || is_null(left) && image(right).is_some()) {
                self.found.is_guarded = true;
                return Ok(());
            }
        }
        // Operators have names like `_+_`.
        if call.func_name.starts_with(|first: char| first.is_ascii_alphabetic()) && !is_function(call) {
            return Err(ExpressionError::Function(call.func_name.clone()));
        }
        call.target.as_deref().into_iter().chain(&call.args).try_for_each(|part| self.walk(part, depth))
    }

    fn comprehension(&mut self, it: &'t ComprehensionExpr, depth: usize) -> Result<(), ExpressionError> {
        let elements = std::iter::once(&it.iter_var).chain(&it.iter_var2);
        let is_taken = |name: &str| VARIABLES.contains(&name) || matches!(name, "old" | "new" | "changed");
        if let Some(taken) = elements.clone().find(|name| is_taken(name)) {
            return Err(ExpressionError::Shadow(taken.clone()));
        }
        // An element comes from the range, or from that of a comprehension around this one.
        let made_before = std::mem::replace(&mut self.makes_map, false);
        self.walk(&it.iter_range, depth)?;
        self.goes_through_map |= self.makes_map;
        self.makes_map |= made_before;
        self.walk(&it.accu_init, depth)?;
        let outside = self.scope.len();
        self.scope.extend(elements.chain([&it.accu_var]).map(String::as_str));
        [&it.loop_cond, &it.loop_step, &it.result].into_iter().try_for_each(|part| self.walk(part, depth))?;
        self.scope.truncate(outside);
        Ok(())
    }
}

fn image(tree: &IdedExpr) -> Option<Image> {
    match &tree.expr {
        Expr::Ident(name) if name == "old" => Some(Image::Old),
        Expr::Ident(name) if name == "new" => Some(Image::New),
        _ => None,
    }
}

fn text(tree: &IdedExpr) -> Option<&str> {
    match &tree.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

/// The environment tells it only of a call: without arguments it is a wrong one, but not unknown.
fn is_function(call: &CallExpr) -> bool {
    let target = call.target.as_ref().map(|_| Box::new(IdedExpr { id: 0, expr: Expr::Literal(LiteralValue::Null) }));
    let bare = Expr::Call(CallExpr { func_name: call.func_name.clone(), target, args: Vec::new() });
    let tree = IdedExpr { id: 0, expr: bare };
    let context = Context::with_env(std::sync::Arc::clone(&ENVIRONMENT));
    !matches!(Value::resolve_val(&tree, &context), Err(ExecutionError::UndeclaredReference(_)))
}
