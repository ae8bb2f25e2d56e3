//! A request on its way that is sent at once or piece by piece, and what came of all of it.

use crate::{
    hop::{Accepted, Outcome, PartialSuccess, Request},
    split::{Most, Piece, Splitter},
    status::Status,
};

/// A request of which a piece at a time is sent, if it is too large as it is.
///
/// [`Parcel::cut`] picks what is to be sent next, and may do so again with another limit. Until somebody
/// says what came of it nothing but the request itself need be held: see [`Parcel::put_back`].
#[derive(Clone, Debug)]
pub struct Parcel {
    request: Request,
    /// Boxed: nearly all requests are sent as they are.
    cut: Option<Box<Cut>>,
}

#[derive(Clone, Debug)]
struct Cut {
    /// What no answer came for.
    left: Splitter,
    /// What is to be sent now, and what is left behind it.
    piece: Option<(Piece, Splitter)>,
    told: Told,
}

/// What came of the pieces so far.
#[derive(Clone, Debug, Default)]
struct Told {
    accepted: Option<Accepted>,
    /// The first status, but one that allows another attempt before others; and the items that were refused.
    refused: Option<(Status, i64)>,
}

impl Parcel {
    /// Nothing of it was sent yet.
    pub fn new(request: Request) -> Self {
        Parcel { request, cut: None }
    }

    /// All of it, as it came.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// What is to be sent now is no more than this; unless a single item is more, or it cannot be cut.
    pub fn cut(&mut self, most: Most) {
        let begun = self.cut.as_ref().is_some_and(|cut| cut.told.anything());
        if !begun && most.allows(self.request.items, self.request.bytes.len()) {
            self.cut = None;
            return;
        }
        let mut cut = match self.cut.take() {
            Some(cut) => cut,
            None => match Splitter::new(self.request.signal, &self.request.bytes) {
                Ok(left) => Box::new(Cut { left, piece: None, told: Told::default() }),
                Err(_) => return,
            },
        };
        let mut rest = cut.left.clone();
        if let Some(piece) = rest.next(most) {
            cut.piece = Some((piece, rest));
            self.cut = Some(cut);
        }
    }

    /// What was picked is not sent now.
    pub fn put_back(&mut self) {
        if let Some(cut) = &mut self.cut {
            cut.piece = None;
        }
    }

    /// What is to be sent now.
    pub fn to_send(&self) -> Request {
        self.piece().map_or_else(|| self.request.clone(), |(piece, _)| self.part(piece))
    }

    /// The bytes of what is to be sent now.
    pub fn bytes(&self) -> &[u8] {
        self.piece().map_or(&self.request.bytes, |(piece, _)| &piece.bytes)
    }

    /// The items in what is to be sent now.
    pub fn items(&self) -> usize {
        self.piece().map_or(self.request.items, |(piece, _)| piece.items)
    }

    /// Whether something is left behind what is to be sent now.
    pub fn goes_on(&self) -> bool {
        self.piece().is_some_and(|(_, rest)| !rest.is_done())
    }

    /// What came of what was to be sent, when something is left behind it.
    pub fn answered(&mut self, outcome: Outcome) {
        let items = self.items();
        if let Some(cut) = &mut self.cut
            && let Some((_, rest)) = cut.piece.take()
        {
            cut.told.add(outcome, items);
            cut.left = rest;
        }
    }

    /// What to tell the sender of all of it, with this as the last that came of it. A refusal after which the
    /// sender may try again is the answer though other pieces were taken: twice is better than never. A piece that
    /// was refused for good counts as rejected items when others were taken.
    pub fn ended(self, outcome: Outcome) -> Outcome {
        let items = self.items();
        match self.cut {
            None => outcome,
            Some(mut cut) => {
                cut.told.add(outcome, items);
                cut.told.outcome()
            }
        }
    }

    /// The items that no answer came for.
    pub fn items_left(&self) -> usize {
        self.cut.as_ref().map_or(self.request.items, |cut| cut.left.items())
    }

    /// All that no answer came for, in one.
    pub fn left(&self) -> Request {
        let left = self.cut.as_ref().and_then(|cut| cut.left.clone().next(Most::Items(usize::MAX)));
        left.map_or_else(|| self.request.clone(), |left| self.part(&left))
    }

    fn piece(&self) -> Option<&(Piece, Splitter)> {
        self.cut.as_ref()?.piece.as_ref()
    }

    fn part(&self, piece: &Piece) -> Request {
        let (signal, metadata) = (self.request.signal, self.request.metadata.clone());
        Request { metadata, ..Request::new(signal, piece.bytes.clone(), piece.items) }
    }
}

impl Told {
    fn anything(&self) -> bool {
        self.accepted.is_some() || self.refused.is_some()
    }

    fn add(&mut self, outcome: Outcome, items: usize) {
        let items = i64::try_from(items).unwrap_or(i64::MAX);
        match outcome {
            Ok(Accepted { partial }) => {
                let all = self.accepted.get_or_insert_default();
                let Some(new) = partial else { return };
                match &mut all.partial {
                    None => all.partial = Some(new),
                    Some(all) => {
                        all.rejected = all.rejected.saturating_add(new.rejected);
                        if all.message.is_empty() {
                            all.message = new.message;
                        }
                    }
                }
            }
            Err(status) => match &mut self.refused {
                None => self.refused = Some((status, items)),
                Some((first, refused)) => {
                    *refused = refused.saturating_add(items);
                    if status.is_retryable() && !first.is_retryable() {
                        *first = status;
                    }
                }
            },
        }
    }

    fn outcome(self) -> Outcome {
        match (self.accepted, self.refused) {
            (Some(accepted), None) => Ok(accepted),
            (Some(accepted), Some((status, items))) if !status.is_retryable() => {
                let rejected = accepted.partial.map_or(0, |partial| partial.rejected);
                let rejected = rejected.saturating_add(items);
                let partial = PartialSuccess { rejected, message: status.message };
                Ok(Accepted { partial: Some(partial) })
            }
            (_, Some((status, _))) => Err(status),
            (None, None) => Err(Status::unavailable("no answer came")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Code, Signal, check, wire::put_message};

    /// So many empty spans.
    fn parcel(spans: usize) -> Parcel {
        let mut out = Vec::new();
        put_message(&mut out, 1, |group| {
            put_message(group, 2, |scope| {
                (0..spans).for_each(|_| put_message(scope, 2, |_| ()));
            });
        });
        Parcel::new(Request::new(Signal::Traces, out.into(), spans))
    }

    /// Sends pieces of 10 spans; what the sender is told.
    fn told(spans: usize, mut answer: impl FnMut(usize) -> Outcome) -> Outcome {
        let mut parcel = parcel(spans);
        parcel.cut(Most::Items(10));
        let mut number = 0;
        while parcel.goes_on() {
            parcel.answered(answer(number));
            parcel.cut(Most::Items(10));
            number += 1;
        }
        parcel.ended(answer(number))
    }

    fn partial(rejected: i64, message: &str) -> Outcome {
        Ok(Accepted { partial: Some(PartialSuccess { rejected, message: message.to_owned() }) })
    }

    fn refused(code: Code) -> Outcome {
        Err(Status::new(code, "no"))
    }

    #[test]
    fn what_is_small_enough_is_sent_as_it_is() {
        let mut small = parcel(10);
        small.cut(Most::Items(10));
        assert!(!small.goes_on());
        assert_eq!(small.to_send().bytes.as_ptr(), small.request().bytes.as_ptr());
        assert_eq!(small.ended(refused(Code::Unavailable)), refused(Code::Unavailable));
    }

    #[test]
    fn what_is_left_is_what_no_answer_came_for() {
        let mut parcel = parcel(25);
        let left =
            |parcel: &Parcel| (parcel.left().items, check(Signal::Traces, &parcel.left().bytes));
        parcel.cut(Most::Items(10));
        assert_eq!((parcel.items(), left(&parcel)), (10, (25, Ok(25))));
        parcel.cut(Most::Items(4));
        assert!(parcel.goes_on());
        assert_eq!((parcel.items(), left(&parcel)), (4, (25, Ok(25))));
        parcel.answered(Ok(Accepted::default()));
        assert_eq!((parcel.items_left(), left(&parcel)), (21, (21, Ok(21))));
        parcel.cut(Most::Items(100));
        assert!(!parcel.goes_on());
        assert_eq!(check(Signal::Traces, parcel.bytes()), Ok(21));
    }

    #[test]
    fn what_was_cut_for_too_little_room_is_whole_again_where_there_is_more() {
        let mut parcel = parcel(25);
        let whole = parcel.request().bytes.as_ptr();
        parcel.cut(Most::Items(10));
        parcel.cut(Most::Items(25));
        assert!(!parcel.goes_on());
        assert_eq!(parcel.bytes().as_ptr(), whole);
        parcel.cut(Most::Bytes(30));
        parcel.put_back();
        assert_eq!((parcel.left().items, parcel.items_left()), (25, 25));
    }

    #[test]
    fn what_cannot_be_cut_is_sent_whole() {
        for (signal, bytes) in [(Signal::Profiles, &b"\x0a\x00"[..]), (Signal::Logs, b"no request")]
        {
            let mut parcel = Parcel::new(Request::new(signal, bytes.into(), 9));
            for most in [Most::Items(1), Most::Bytes(1)] {
                parcel.cut(most);
                assert!(!parcel.goes_on());
                assert_eq!((parcel.bytes(), parcel.items()), (bytes, 9));
            }
            assert_eq!((parcel.left().bytes, parcel.items_left()), (bytes.into(), 9));
        }
    }

    #[test]
    fn the_answers_of_the_pieces_are_one_for_the_whole() {
        assert_eq!(told(25, |_| Ok(Accepted::default())), Ok(Accepted::default()));
        let rejected =
            told(25, |n| if n == 1 { Ok(Accepted::default()) } else { partial(2, "some") });
        assert_eq!(rejected, partial(4, "some"));
        let warned = told(25, |n| if n == 1 { partial(0, "careful") } else { partial(0, "") });
        assert_eq!(warned, partial(0, "careful"));
    }

    #[test]
    fn a_piece_refused_for_good_is_so_many_rejected_items() {
        let answer = |n| match n {
            0 => partial(3, "some"),
            2 => refused(Code::InvalidArgument),
            _ => Ok(Accepted::default()),
        };
        assert_eq!(told(25, answer), partial(8, "no"));
        let all = told(25, |_| refused(Code::InvalidArgument));
        assert_eq!(all, refused(Code::InvalidArgument));
    }

    #[test]
    fn whoever_may_try_again_is_told_so() {
        let answer = |n| match n {
            0 => refused(Code::InvalidArgument),
            1 => refused(Code::Unavailable),
            _ => Ok(Accepted::default()),
        };
        assert_eq!(told(25, answer), refused(Code::Unavailable));
    }
}
