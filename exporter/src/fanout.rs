//! One request to several consumers.

use std::{future::poll_fn, sync::Arc, task::Poll};

use tapio_proto::{
    Accepted, Batching, CanBatch, Consumer, Next, Outcome, PartialSuccess, Pending, Request,
    Signal, transport::Compression,
};

/// Gives each request to all of its consumers at the same time. All must accept; if one refuses,
/// the sender gets the first refusal in the consumers' order, and those that did accept will see
/// the request again if the sender tries again.
pub struct Fanout(Vec<Next>);

impl Fanout {
    /// The one consumer itself, or a fan-out to several; without any, requests are accepted and
    /// forgotten.
    pub fn of(mut consumers: Vec<Next>) -> Next {
        match consumers.len() {
            1 => consumers.remove(0),
            _ => Arc::new(Fanout(consumers)),
        }
    }
}

impl Consumer for Fanout {
    fn takes_closed(&self, compression: Compression) -> bool {
        self.0.iter().all(|next| next.takes_closed(compression))
    }

    fn can_batch(&self, signal: Signal, batching: &Batching) -> CanBatch {
        let all = self.0.iter().map(|next| next.can_batch(signal, batching));
        // One that passes on what comes wants it merged; where none has a queue there is no use in it.
        all.fold(CanBatch::Indifferent, |one, other| match (one, other) {
            (CanBatch::No, _) | (_, CanBatch::No) => CanBatch::No,
            (one, other) => one.min(other),
        })
    }

    fn batch(&self, signal: Signal, batching: &Arc<Batching>) {
        self.0.iter().for_each(|next| next.batch(signal, batching));
    }

    fn consume(&self, request: Request) -> Pending<'_> {
        let mut pending: Vec<_> =
            self.0.iter().map(|next| (next.consume(request.clone()), None)).collect();
        Box::pin(async move {
            poll_fn(|context| {
                let mut ready = true;
                for (pending, outcome) in &mut pending {
                    if outcome.is_none() {
                        match pending.as_mut().poll(context) {
                            Poll::Ready(result) => *outcome = Some(result),
                            Poll::Pending => ready = false,
                        }
                    }
                }
                if ready { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            merge(pending.into_iter().filter_map(|(_, outcome)| outcome))
        })
    }
}

/// Partial successes are merged: the largest count, because the consumers got the same items.
fn merge(outcomes: impl Iterator<Item = Outcome>) -> Outcome {
    let mut merged: Option<PartialSuccess> = None;
    for outcome in outcomes {
        let Some(partial) = outcome?.partial else {
            continue;
        };
        merged = Some(match merged {
            None => partial,
            Some(first) => PartialSuccess {
                rejected: first.rejected.max(partial.rejected),
                message: format!("{}; {}", first.message, partial.message),
            },
        });
    }
    Ok(Accepted { partial: merged })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tapio_proto::{Code, Signal, Status};

    use super::*;

    struct Answer(Outcome);

    impl Consumer for Answer {
        fn consume(&self, _: Request) -> Pending<'_> {
            Box::pin(async move {
                tokio::task::yield_now().await;
                self.0.clone()
            })
        }
    }

    fn partial(rejected: i64, message: &str) -> Outcome {
        Ok(Accepted { partial: Some(PartialSuccess { rejected, message: message.to_owned() }) })
    }

    async fn run(answers: Vec<Outcome>) -> Outcome {
        let fanout = Fanout::of(answers.into_iter().map(|a| Arc::new(Answer(a)) as Next).collect());
        fanout.consume(Request::new(Signal::Logs, vec![1].into(), 1)).await
    }

    #[tokio::test]
    async fn all_must_accept() {
        let refused = |text: &str| Err(Status::new(Code::Unavailable, text));
        assert_eq!(run(vec![]).await, Ok(Accepted::default()));
        assert_eq!(
            run(vec![Ok(Accepted::default()), Ok(Accepted::default())]).await,
            Ok(Accepted::default())
        );
        let outcome = run(vec![Ok(Accepted::default()), refused("b"), refused("c")]).await;
        assert_eq!(outcome.unwrap_err().message, "b");
    }

    #[tokio::test]
    async fn partials_are_merged() {
        let outcome = run(vec![partial(3, "a"), Ok(Accepted::default()), partial(7, "b")]).await;
        assert_eq!(outcome, partial(7, "a; b"));
    }
}
