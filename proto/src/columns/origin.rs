//! The columns that come from the resource, looked up once for all of its records.

use super::{
    dictionary::{Dictionary, Key},
    text,
};
use crate::{
    attr,
    view::{AnyValue, ResourceView},
};

/// Columns of a resource's attributes, one for each of `N` attribute names.
pub(super) struct Origin<const N: usize> {
    names: [&'static str; N],
    columns: [Dictionary; N],
    keys: [Key; N],
    /// The resource that `keys` are of, as bytes, and the dictionaries' generation at that time.
    resource: Vec<u8>,
    generations: [u64; N],
    known: bool,
}

impl<const N: usize> Origin<N> {
    pub(super) fn new(names: [&'static str; N]) -> Self {
        Origin {
            names,
            columns: std::array::from_fn(|_| Dictionary::default()),
            keys: [Key::NULL; N],
            resource: Vec::new(),
            generations: [0; N],
            known: false,
        }
    }

    /// The rows to come are of this resource.
    pub(super) fn set(&mut self, resource: &ResourceView<'_>) {
        if !self.known || self.resource != resource.as_bytes() {
            self.look_up(resource);
        }
    }

    /// One row of the resource that was set.
    pub(super) fn push(&mut self) {
        for (column, key) in self.columns.iter_mut().zip(self.keys) {
            column.push(key);
        }
    }

    #[cold]
    fn look_up(&mut self, resource: &ResourceView<'_>) {
        self.resource.clear();
        self.resource.extend_from_slice(resource.as_bytes());
        self.known = true;
        self.keys = [Key::NULL; N];
        let mut attributes = resource.attributes();
        while let Some(Ok((key, value))) = attributes.next_raw() {
            let key = text(key);
            let Some(column) = self.names.iter().position(|name| *name == key) else { continue };
            // Of duplicates the first counts, as in `ResourceView::attribute`.
            if self.keys[column] == Key::NULL
                && let Ok(AnyValue::String(value)) = AnyValue::new(value)
            {
                self.keys[column] = self.columns[column].key(value);
            }
        }
        self.generations = self.generation();
    }

    fn generation(&self) -> [u64; N] {
        std::array::from_fn(|i| self.columns[i].generation())
    }

    pub(super) fn bytes(&self) -> usize {
        self.columns.iter().map(Dictionary::bytes).sum()
    }

    pub(super) fn finish(&mut self) -> [arrow::array::ArrayRef; N] {
        let mut columns = self.columns.iter_mut();
        let arrays = std::array::from_fn(|_| match columns.next() {
            Some(column) => column.finish(),
            None => Dictionary::default().finish(),
        });
        // A dictionary that began anew does not know the resource's keys any more.
        if self.generations != self.generation() {
            self.known = false;
            self.keys = [Key::NULL; N];
        }
        arrays
    }
}

/// Where a span comes from.
pub(super) fn of_spans() -> Origin<5> {
    Origin::new([
        attr::SERVICE_NAME,
        attr::SERVICE_NAMESPACE,
        attr::K8S_NAMESPACE_NAME,
        attr::K8S_POD_NAME,
        attr::K8S_NODE_NAME,
    ])
}

/// Where a log record or a data point comes from.
pub(super) fn of_others() -> Origin<5> {
    Origin::new([
        attr::SERVICE_NAME,
        attr::K8S_NAMESPACE_NAME,
        attr::K8S_POD_NAME,
        attr::K8S_CONTAINER_NAME,
        attr::K8S_NODE_NAME,
    ])
}
