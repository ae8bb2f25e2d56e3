//! The story as an SRE reads it at 3 a.m.: at most 30 lines of 110 columns, no colour of its own.

use tapio_proto::model::{Evidence, Story, StoryState, Time};

use super::{chain::OBJECTS, dimension::Dimension, impact, words};

/// Columns of a terminal that a story may use.
const WIDTH: usize = 110;
/// Lines that a story may have.
const LINES: usize = 30;
/// Facts that are told however long the rest is.
const LEAST_FACTS: usize = 5;
/// Lines about error budgets and weights.
const MOST_IMPACT: usize = 3;

/// The text of a story as it stands at `now`; below the threshold it is a hypothesis and says so.
pub fn render(story: &Story, evidence: &[Evidence], now: Time, threshold: f64) -> String {
    let mut out = Vec::new();
    let since = story
        .root_cause
        .as_ref()
        .map(|r| r.time)
        .or_else(|| evidence.first().map(|e| e.time))
        .unwrap_or(story.opened);
    let until = story.resolved.unwrap_or(now);
    let state = match (story.state, &story.merged_into) {
        (StoryState::Open, _) => "OPEN".to_owned(),
        (StoryState::Merged, Some(into)) => format!("MERGED into story {into} after"),
        (StoryState::Resolved | StoryState::Merged, _) => "RESOLVED after".to_owned(),
    };
    out.push(format!(
        "{state} {}   confidence {:.2}   story {}{}",
        words::lasting(until.seconds_since(since)),
        story.confidence,
        story.id,
        kinds(story)
    ));
    let perhaps =
        if story.confidence < threshold && story.root_cause.is_some() { "Perhaps: " } else { "" };
    out.extend(wrap(&format!("{perhaps}{}", story.title), "", ""));
    for line in impact::lines(&story.impact).iter().take(MOST_IMPACT) {
        out.extend(wrap(line, "Impact  ", "        "));
    }
    if let Some(again) = &story.again {
        let earlier: Vec<&str> = story.earlier.iter().rev().map(String::as_str).collect();
        let line = format!("{again}; before: {}", words::some(&earlier, 4));
        out.extend(wrap(&line, "Again   ", "        "));
    }
    let tail = tail(story, evidence);
    // Head, its blank line, the heading of the facts and the line that counts the rest.
    let room = LINES.saturating_sub(out.len() + 3 + tail.len()).max(LEAST_FACTS);
    let told = choose(evidence, room);
    out.push(String::new());
    // Where nobody saw it begin, it counts how long ago a fact is.
    let stands = evidence.iter().any(|fact| fact.source == OBJECTS);
    let column = match story.root_cause {
        Some(_) if stands => "ago",
        Some(_) => "since cause",
        None => "",
    };
    out.push(header("What happened", column));
    for fact in &told {
        let offset = fact.time.seconds_since(since).round();
        let offset = if stands {
            words::lasting(until.seconds_since(fact.time))
        } else if offset > 0.0 && story.root_cause.is_some() {
            format!("+{}", words::lasting(offset))
        } else {
            String::new()
        };
        let room = WIDTH - "  03:11:16  ".len() - offset.chars().count() - 1;
        let line = format!("  {}  {}", fact.time.clock(), words::short(&fact.line(), room));
        out.push(header(&line, &offset));
    }
    if evidence.len() > told.len() {
        out.push(format!("  and {} more facts", evidence.len() - told.len()));
    }
    out.extend(tail);
    out.join("\n") + "\n"
}

/// `   cascading, recurring`
fn kinds(story: &Story) -> String {
    let names: Vec<&str> = story.kinds.iter().map(|kind| kind.name()).collect();
    if names.is_empty() { String::new() } else { format!("   {}", names.join(", ")) }
}

/// The facts that are told where there is no room for all: the cause, what users see, then what led there, first
/// what the cluster says and last what programs said, in order of time.
fn choose(evidence: &[Evidence], room: usize) -> Vec<&Evidence> {
    let rank = |fact: &Evidence| match fact.role.as_str() {
        "cause" => 0,
        "symptom" => 1,
        _ if fact.dimension != Dimension::Semantic.name() => 2,
        _ => 3,
    };
    let mut order: Vec<usize> = (0..evidence.len()).collect();
    order.sort_by_key(|at| (rank(&evidence[*at]), *at));
    order.truncate(room);
    order.sort_unstable();
    order.into_iter().map(|at| &evidence[at]).collect()
}

/// Why, what to do, and where to look.
fn tail(story: &Story, evidence: &[Evidence]) -> Vec<String> {
    let mut out = Vec::new();
    if !(story.reasons.is_empty() && story.doubts.is_empty() && story.ruled_out.is_empty()) {
        out.push(String::new());
        out.push("Why".to_owned());
        story.reasons.iter().for_each(|line| out.extend(wrap(line, "  + ", "    ")));
        story.doubts.iter().for_each(|line| out.extend(wrap(line, "  - ", "    ")));
        story
            .incomplete
            .iter()
            .for_each(|line| out.extend(wrap(&format!("incomplete: {line}"), "  - ", "    ")));
        story
            .ruled_out
            .iter()
            .for_each(|line| out.extend(wrap(&format!("ruled out: {line}"), "  ", "    ")));
    }
    let (prevent, actions): (Vec<&String>, Vec<&String>) =
        story.recommendations.iter().partition(|r| r.starts_with("prevent: "));
    if !actions.is_empty() {
        out.push(String::new());
        out.push("Do".to_owned());
        // Commands are not broken over lines: they are there to be pasted.
        out.extend(actions.iter().enumerate().map(|(i, action)| format!("  {}. {action}", i + 1)));
    }
    for line in prevent {
        out.extend(wrap(line.trim_start_matches("prevent: "), "Prevent  ", "         "));
    }
    out.push(String::new());
    let trace = evidence.iter().rev().find_map(|e| e.trace_id.as_deref());
    let trace = trace.map(|id| format!("trace {id} (one that fails)   ")).unwrap_or_default();
    out.push(format!("See  {trace}tapio story {} --evidence", story.id));
    out
}

fn header(left: &str, right: &str) -> String {
    let gap = WIDTH.saturating_sub(left.chars().count() + right.chars().count());
    if right.is_empty() { left.to_owned() } else { format!("{left}{}{right}", " ".repeat(gap)) }
}

fn wrap(text: &str, first: &str, rest: &str) -> Vec<String> {
    let lines = fold(text, WIDTH - first.chars().count().max(rest.chars().count()));
    lines
        .into_iter()
        .enumerate()
        .map(|(i, line)| format!("{}{line}", if i == 0 { first } else { rest }))
        .collect()
}

/// Breaks at spaces; a word longer than a line stays whole.
fn fold(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let full = lines.last().is_some_and(|line| {
            !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width
        });
        if full {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.extend(word.chars().filter(|c| !c.is_control()));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guarantees: where there is no room for all, what programs said makes way for what the cluster and the users
    /// saw, and what is told stays in order.
    #[test]
    fn what_programs_said_makes_way_first() {
        let fact = |what: &str, role: &str, dimension: Dimension| Evidence {
            story_id: String::new(),
            time: Time(0),
            role: role.to_owned(),
            entity_kind: String::new(),
            entity_namespace: String::new(),
            entity_name: String::new(),
            what: what.to_owned(),
            times: 1,
            source: String::new(),
            dimension: dimension.name().to_owned(),
            trace_id: None,
            span_id: None,
        };
        let all = [
            fact("changed", "cause", Dimension::Causal),
            fact("says so", "effect", Dimension::Semantic),
            fact("says more", "effect", Dimension::Semantic),
            fact("killed", "effect", Dimension::Ownership),
            fact("fails", "symptom", Dimension::Temporal),
        ];
        let told = |room| choose(&all, room).iter().map(|f| f.what.as_str()).collect::<Vec<_>>();
        assert_eq!(told(3), ["changed", "killed", "fails"]);
        assert_eq!(told(4), ["changed", "says so", "killed", "fails"]);
        assert_eq!(told(9).len(), 5);
    }
}
