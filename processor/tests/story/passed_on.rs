//! Who is not to blame: whoever only passes on what it was told, or is asked more than anybody could answer.

use crate::blamed::{Meets, Shop};

/// Ten requests a second, and eighty from the 100th second on, which `a` cannot serve.
fn overloaded(users: Option<&str>) -> Shop {
    let mut shop = Shop::found(&["front", "a"]);
    if let Some(users) = users {
        shop.users(users);
        shop.rollout(99, users, "x:2");
    }
    for second in 2..160 {
        let (times, meets) = if second < 100 { (1, Meets::Health) } else { (8, Meets::Error) };
        (0..times).for_each(|_| shop.requests(second, "a", meets));
    }
    shop
}

/// Guarantees: what fails by itself while users ask many times as much is not blamed; nothing inside is, unless
/// those who ask are inside and were changed.
#[test]
fn users_who_ask_many_times_as_much_are_the_cause() {
    let stories = overloaded(None).stories();
    let [story] = &stories[..] else { panic!("{stories:?}") };
    assert!(story.root_cause.is_none(), "{story:?}");
    assert!(story.title.contains("front is asked 8 times as much as before"), "{story:?}");

    let stories = overloaded(Some("loader")).stories();
    let [story] = &stories[..] else { panic!("{stories:?}") };
    let cause = story.root_cause.as_ref().unwrap();
    assert_eq!((&*cause.kind, &*cause.name), ("Deployment", "loader"), "{story:?}");
    assert!(cause.change.as_ref().unwrap().contains("x:1 -> x:2"), "{story:?}");
}

/// Guarantees: a caller that logs the error that it was given, in a field beside its message, is not blamed for
/// it; the one that it comes from is.
#[test]
fn an_error_that_is_passed_on_is_not_the_callers() {
    let mut shop = Shop::found(&["front", "a"]);
    let error = "connection is not available, request timed out after 1.5s (pool max 8)";
    for second in 2..160 {
        let fails = second >= 100;
        shop.requests(second, "a", if fails { Meets::Error } else { Meets::Health });
        if fails {
            shop.says(second, "a", "request failed", error);
            shop.says(second, "front", "request failed", &format!("a answered 503: {error}"));
        }
    }
    let stories = shop.stories();
    let [story] = &stories[..] else { panic!("{stories:?}") };
    let cause = story.root_cause.as_ref().unwrap();
    assert_eq!((&*cause.name, &*cause.pattern), ("a", "pool_exhausted"), "{story:?}");
    let blamed =
        story.hypotheses.iter().find(|h| h.name == "front" && h.pattern == "pool_exhausted");
    assert!(blamed.is_none(), "{blamed:?}");
}
