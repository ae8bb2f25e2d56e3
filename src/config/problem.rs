//! What is wrong with a configuration, for the person who wrote it.

use std::fmt;

use super::node::Place;

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) place: Option<Place>,
    pub(crate) text: String,
}

/// Everything that is wrong; never shown when empty.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<Problem>);

impl Problems {
    /// Notes a problem at `place`.
    pub(crate) fn add(&mut self, place: &Place, text: impl Into<String>) {
        self.0.push(Problem { place: Some(place.clone()), text: text.into() });
    }

    /// Notes a problem that has no place: something is missing altogether.
    pub(crate) fn add_anywhere(&mut self, text: impl Into<String>) {
        self.0.push(Problem { place: None, text: text.into() });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Problems(vec![problem])
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => write!(f, "{one}"),
            many => {
                write!(f, "{} problems in the configuration:", many.len())?;
                let mut many: Vec<_> = many.iter().collect();
                // As the file goes; what has no place comes last.
                many.sort_by_key(|problem| {
                    let place = problem.place.as_ref();
                    place.map_or((usize::MAX, 0), |place| (place.line, place.column))
                });
                many.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

impl std::error::Error for Problems {}
