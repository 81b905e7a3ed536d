//! The filters that a configuration can name.

use std::any::Any;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::config::{Body, Catalog};
use crate::filter::{BuildCx, BuildError, ErasedFilter, Filter};

/// Filters by name. Registration is explicit; there is one door, for built-in filters too.
#[derive(Default)]
pub struct Registry {
    kinds: BTreeMap<&'static str, Box<dyn Kind>>,
}

/// Two filters of one name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("two filters are called `{0}`")]
pub struct DuplicateFilter(pub &'static str);

impl Registry {
    /// Adds a filter.
    ///
    /// # Errors
    /// There is one of this name already.
    pub fn register<F: Filter>(&mut self) -> Result<(), DuplicateFilter> {
        match self.kinds.insert(F::NAME, Box::new(Of::<F>(PhantomData))) {
            None => Ok(()),
            Some(_) => Err(DuplicateFilter(F::NAME)),
        }
    }

    /// Builds the filter `name` from settings that [`Catalog::decode`] gave.
    pub(crate) fn build(
        &self,
        name: &str,
        settings: Box<dyn Any + Send>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Arc<dyn ErasedFilter>, BuildError> {
        let kind = self.kinds.get(name).ok_or_else(|| BuildError::new(format!("unknown filter `{name}`")))?;
        kind.build(settings, cx)
    }
}

impl Catalog for Registry {
    fn names(&self) -> Vec<&'static str> {
        self.kinds.keys().copied().collect()
    }

    fn decode(&self, name: &str, body: Body<'_, '_>) -> Option<Box<dyn Any + Send>> {
        self.kinds.get(name)?.decode(body)
    }

    fn schema(&self, name: &str, generator: &mut SchemaGenerator) -> Option<Schema> {
        Some(self.kinds.get(name)?.schema(generator))
    }
}

trait Kind: Send + Sync {
    fn decode(&self, body: Body<'_, '_>) -> Option<Box<dyn Any + Send>>;
    fn build(&self, settings: Box<dyn Any + Send>, cx: &mut BuildCx<'_>) -> Result<Arc<dyn ErasedFilter>, BuildError>;
    fn schema(&self, generator: &mut SchemaGenerator) -> Schema;
}

struct Of<F>(PhantomData<fn() -> F>);

impl<F: Filter> Kind for Of<F> {
    fn decode(&self, body: Body<'_, '_>) -> Option<Box<dyn Any + Send>> {
        Some(Box::new(body.decode::<F::Config>()?))
    }

    fn build(&self, settings: Box<dyn Any + Send>, cx: &mut BuildCx<'_>) -> Result<Arc<dyn ErasedFilter>, BuildError> {
        let settings = settings.downcast::<F::Config>().map_err(|_| BuildError::new("settings of another filter"))?;
        Ok(Arc::new(F::build(*settings, cx)?))
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Schema {
        // Settings that are a plain word or map need no entry of their own among the definitions.
        if F::Config::inline_schema() { F::Config::json_schema(generator) } else { generator.subschema_for::<F::Config>() }
    }
}
