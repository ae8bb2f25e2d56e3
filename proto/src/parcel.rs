//! A request on its way that is sent at once or piece by piece, and what came of all of it.

use crate::{
    hop::{Accepted, Outcome, PartialSuccess, Request},
    split::{Most, Piece, Splitter},
    status::Status,
};

/// A request of which a piece at a time is sent, if it is too large as it is.
///
/// [`Parcel::cut`] picks what is to be sent next, and may do so again with another limit; it is done with
/// when [`Parcel::answered`] is told what came of it. So nothing but the request itself is held while it waits.
#[derive(Clone, Debug)]
pub struct Parcel {
    request: Request,
    /// What no answer came for; all of it when `None`.
    left: Option<Splitter>,
    /// What is to be sent now, and what is left behind it; all of it when `None`.
    piece: Option<(Piece, Splitter)>,
    told: Told,
}

/// What came of the pieces so far.
#[derive(Clone, Debug, Default)]
struct Told {
    accepted: Option<Accepted>,
    /// The first status, of those that allow another attempt before the others, and how many items it was about.
    refused: Option<(Status, i64)>,
}

impl Parcel {
    /// Nothing of it was sent yet.
    pub fn new(request: Request) -> Self {
        Parcel { request, left: None, piece: None, told: Told::default() }
    }

    /// All of it.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// What is to be sent now is no more than this; unless a single item is more, or it cannot be cut.
    pub fn cut(&mut self, most: Most) {
        self.piece = None;
        if self.left.is_none() {
            if most.allows(self.request.items, self.request.bytes.len()) {
                return;
            }
            let Ok(all) = Splitter::new(self.request.signal, &self.request.bytes) else { return };
            self.left = Some(all);
        }
        let Some(mut rest) = self.left.clone() else { return };
        self.piece = rest.next(most).map(|piece| (piece, rest));
        if self.piece.is_none() {
            self.left = None;
        }
    }

    /// What is to be sent now.
    pub fn to_send(&self) -> Request {
        match &self.piece {
            None => self.request.clone(),
            Some((piece, _)) => self.part(piece),
        }
    }

    /// The bytes of what is to be sent now.
    pub fn bytes(&self) -> &[u8] {
        self.piece.as_ref().map_or(&self.request.bytes, |(piece, _)| &piece.bytes)
    }

    /// The items in what is to be sent now.
    pub fn items(&self) -> usize {
        self.piece.as_ref().map_or(self.request.items, |(piece, _)| piece.items)
    }

    /// Whether something is left behind what is to be sent now.
    pub fn goes_on(&self) -> bool {
        self.piece.as_ref().is_some_and(|(_, rest)| !rest.is_done())
    }

    /// What came of what was to be sent. Whether something is left.
    pub fn answered(&mut self, outcome: Outcome) -> bool {
        let items = i64::try_from(self.items()).unwrap_or(i64::MAX);
        self.told.add(outcome, items);
        self.left = self.piece.take().map(|(_, rest)| rest);
        self.left.as_ref().is_some_and(|rest| !rest.is_done())
    }

    /// All that no answer came for, in one.
    pub fn left(&self) -> Request {
        let rest = self.left.clone().and_then(|mut rest| rest.next(Most::Items(usize::MAX)));
        rest.map_or_else(|| self.request.clone(), |rest| self.part(&rest))
    }

    /// What to tell the sender of all of it. A refusal after which the sender may try again is the answer
    /// though other pieces were taken: twice is better than never. A piece that was refused for good counts
    /// as rejected items when others were taken.
    pub fn outcome(self) -> Outcome {
        self.told.outcome()
    }

    fn part(&self, piece: &Piece) -> Request {
        let Request { signal, metadata, .. } = &self.request;
        Request {
            metadata: metadata.clone(),
            ..Request::new(*signal, piece.bytes.clone(), piece.items)
        }
    }
}

impl Told {
    fn add(&mut self, outcome: Outcome, items: i64) {
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
        for number in 0.. {
            parcel.cut(Most::Items(10));
            if !parcel.answered(answer(number)) {
                break;
            }
        }
        parcel.outcome()
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
        assert!(!small.answered(refused(Code::Unavailable)));
        assert_eq!(small.outcome(), refused(Code::Unavailable));
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
        assert!(parcel.answered(Ok(Accepted::default())));
        assert_eq!(left(&parcel), (21, Ok(21)));
        parcel.cut(Most::Items(100));
        assert!(!parcel.goes_on());
        assert_eq!(check(Signal::Traces, parcel.bytes()), Ok(21));
        assert!(!parcel.answered(Ok(Accepted::default())));
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
            assert_eq!(parcel.left().bytes, bytes);
            assert!(!parcel.answered(Ok(Accepted::default())));
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
