//! A JSON object as CEL's map, whose keys have an order: CEL's own goes through them as the process hashes them.

use cel::common::traits::{Container, Indexer, Iterable, Iterator as Each, Sizer, Zeroer};
use cel::common::types::{CelMap, CelMapKey, CelString, MAP_TYPE, Type};
use cel::common::value::{Builtin, BuiltinRef, Val};

#[derive(Debug, Clone)]
pub(super) struct Object {
    map: CelMap<'static>,
    keys: Vec<CelString<'static>>,
}

impl Object {
    pub(super) fn new(fields: impl Iterator<Item = (String, Box<dyn Val>)>) -> Self {
        let map: std::collections::HashMap<_, _> = fields.map(|(key, value)| (CelMapKey::from(key), value)).collect();
        let mut names: Vec<String> = map
            .keys()
            .filter_map(|key| Some(key.inner().downcast_ref::<CelString<'_>>()?.inner().to_owned()))
            .collect();
        names.sort_unstable();
        Self { map: map.into(), keys: names.into_iter().map(CelString::from).collect() }
    }
}

/// All as the map has it, but the order.
impl Val for Object {
    fn get_type(&self) -> &Type {
        Self::cel_type()
    }

    fn cel_type() -> &'static Type {
        &MAP_TYPE
    }

    fn as_container(&self) -> Option<&dyn Container> {
        self.map.as_container()
    }

    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        Some(&self.map)
    }

    fn into_indexer<'v>(self: Box<Self>) -> Option<Box<dyn Indexer + 'v>>
    where
        Self: 'v,
    {
        Some(Box::new(self.map))
    }

    fn as_iterable<'b, 'v>(&'b self) -> Option<&'b (dyn Iterable + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn as_sizer(&self) -> Option<&dyn Sizer> {
        self.map.as_sizer()
    }

    fn as_zeroer(&self) -> Option<&dyn Zeroer> {
        self.map.as_zeroer()
    }

    fn equals(&self, other: &dyn Val) -> bool {
        self.map.equals(other)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(self.clone())
    }

    fn as_builtin<'b, 'v>(&'b self) -> BuiltinRef<'b, 'v>
    where
        Self: 'v,
    {
        BuiltinRef::Map(&self.map)
    }

    fn into_builtin<'v>(self: Box<Self>) -> Option<Builtin<'v>>
    where
        Self: 'v,
    {
        Some(Builtin::Map(self.map))
    }
}

impl Iterable for Object {
    fn iter<'b, 'v>(&'b self) -> Box<dyn Each<'b, 'v> + 'b>
    where
        Self: 'v,
    {
        Box::new(Keys(self.keys.iter()))
    }
}

struct Keys<'b>(std::slice::Iter<'b, CelString<'static>>);

impl<'b, 'v> Each<'b, 'v> for Keys<'b> {
    fn next(&mut self) -> Option<&'b (dyn Val + 'v)> {
        let key: &'b (dyn Val + 'v) = self.0.next()?;
        Some(key)
    }
}
