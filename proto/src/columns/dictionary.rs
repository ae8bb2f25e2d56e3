//! A dictionary column whose values outlive the batch.

use std::sync::Arc;

use ahash::RandomState;
use arrow::{
    array::{ArrayRef, DictionaryArray, StringArray, UInt32Array},
    buffer::{Buffer, OffsetBuffer, ScalarBuffer},
    datatypes::UInt32Type,
};
use hashbrown::HashTable;

use super::{LONGEST_TEXT, cut};

/// Above this many values or bytes of values, the next batch begins with an empty dictionary: high
/// cardinality (URLs in span names) must not make it grow forever.
const MAX_VALUES: usize = 1 << 16;
const MAX_BYTES: usize = 8 << 20;

/// Key of a text in a [`Dictionary`]; `NULL` for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(u32);

impl Key {
    pub(super) const NULL: Key = Key(u32::MAX);
}

pub(super) struct Dictionary {
    hasher: RandomState,
    /// Indices into the values.
    table: HashTable<u32>,
    values: Vec<u8>,
    offsets: Vec<i32>,
    /// The values as an array, as long as no value was added.
    array: Option<Arc<StringArray>>,
    keys: Vec<u32>,
    nulls: usize,
    /// Bytes of values when the last batch was finished.
    finished: usize,
    /// Counts how often the dictionary began anew; keys of another generation are not valid.
    generation: u64,
}

impl Default for Dictionary {
    fn default() -> Self {
        Dictionary {
            hasher: RandomState::new(),
            table: HashTable::new(),
            values: Vec::new(),
            offsets: vec![0],
            array: None,
            keys: Vec::new(),
            nulls: 0,
            finished: 0,
            generation: 0,
        }
    }
}

impl Dictionary {
    /// The key of a text; empty text is null.
    pub(super) fn key(&mut self, text: &str) -> Key {
        if text.is_empty() {
            return Key::NULL;
        }
        let text = cut(text, LONGEST_TEXT);
        let Dictionary { hasher, table, values, offsets, .. } = self;
        let hash = hasher.hash_one(text.as_bytes());
        let at = |index: u32| {
            &values[offsets[index as usize] as usize..offsets[index as usize + 1] as usize]
        };
        if let Some(index) = table.find(hash, |index| at(*index) == text.as_bytes()) {
            return Key(*index);
        }
        let index = offsets.len() as u32 - 1;
        table.insert_unique(hash, index, |index| hasher.hash_one(at(*index)));
        values.extend_from_slice(text.as_bytes());
        offsets.push(values.len() as i32);
        self.array = None;
        Key(index)
    }

    pub(super) fn push(&mut self, key: Key) {
        self.nulls += usize::from(key == Key::NULL);
        self.keys.push(key.0);
    }

    pub(super) fn push_text(&mut self, text: &str) {
        let key = self.key(text);
        self.push(key);
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Bytes of the rows not finished yet, and of the values that came with them.
    pub(super) fn bytes(&self) -> usize {
        self.keys.len() * 4 + self.values.len() - self.finished
    }

    /// The rows since the last time.
    pub(super) fn finish(&mut self) -> ArrayRef {
        let keys = std::mem::take(&mut self.keys);
        let nulls = std::mem::take(&mut self.nulls);
        let values = self
            .array
            .get_or_insert_with(|| Arc::new(strings(&self.offsets, &self.values)))
            .clone();
        let keys = if nulls == 0 {
            UInt32Array::from(keys)
        } else {
            UInt32Array::from_iter(keys.into_iter().map(|key| (key != Key::NULL.0).then_some(key)))
        };
        if self.offsets.len() > MAX_VALUES || self.values.len() > MAX_BYTES {
            let generation = self.generation + 1;
            *self = Dictionary { generation, ..Dictionary::default() };
        }
        self.finished = self.values.len();
        match DictionaryArray::<UInt32Type>::try_new(keys, values) {
            Ok(array) => Arc::new(array),
            // A key is an index of a value that was there when the key was made.
            Err(error) => {
                debug_assert!(false, "{error}");
                Arc::new(DictionaryArray::<UInt32Type>::from_iter(
                    std::iter::empty::<Option<&str>>(),
                ))
            }
        }
    }
}

fn strings(offsets: &[i32], values: &[u8]) -> StringArray {
    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets.to_vec()));
    match StringArray::try_new(offsets, Buffer::from(values.to_vec()), None) {
        Ok(array) => array,
        // The values are texts, one after another.
        Err(error) => {
            debug_assert!(false, "{error}");
            StringArray::new_null(0)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::{Array, AsArray};

    use super::*;

    fn read(array: &ArrayRef) -> Vec<Option<String>> {
        let dictionary = array.as_dictionary::<UInt32Type>();
        let texts = dictionary.downcast_dict::<StringArray>().unwrap();
        (0..array.len())
            .map(|i| {
                array.is_valid(i).then(|| {
                    let key = dictionary.keys().value(i) as usize;
                    texts.values().value(key).to_owned()
                })
            })
            .collect()
    }

    #[test]
    fn values_outlive_the_batch_and_are_shared() {
        let mut column = Dictionary::default();
        for text in ["a", "b", "", "a"] {
            column.push_text(text);
        }
        let first = column.finish();
        assert_eq!(read(&first), [Some("a".into()), Some("b".into()), None, Some("a".into())]);
        column.push_text("b");
        let second = column.finish();
        assert_eq!(read(&second), [Some("b".into())]);
        let values = |array: &ArrayRef| {
            array.as_dictionary::<UInt32Type>().values().as_string::<i32>().values().as_ptr()
        };
        assert_eq!(values(&first), values(&second));
        column.push_text("c");
        assert_eq!(read(&column.finish()), [Some("c".into())]);
        assert_eq!(read(&first)[1].as_deref(), Some("b"));
    }

    #[test]
    fn it_does_not_grow_without_bound() {
        let mut column = Dictionary::default();
        for i in 0..3 * MAX_VALUES {
            column.push_text(&i.to_string());
            if i % 1000 == 999 {
                let rows = read(&column.finish());
                assert_eq!(rows[999], Some(i.to_string()));
            }
            assert!(column.offsets.len() <= MAX_VALUES + 1002);
        }
        assert!(column.generation() >= 2);
        column.push_text(&"ü".repeat(LONGEST_TEXT));
        let rows = read(&column.finish());
        assert_eq!(rows.last().unwrap().as_ref().unwrap().len(), LONGEST_TEXT);
    }
}
