//! Pieces that several pages share. Foreign text stays text: maud escapes it, and it cannot change
//! the writing direction of the text around it.

use jiff::Timestamp;
use maud::{Markup, html};

use super::fields::Fields;
use super::seen::{How, MOST};
use super::watch::Trouble;
use crate::dead_letters::Group;
use crate::kind::Kind;
use crate::messages::FailureReason;
use crate::table::{age, printable};

/// A moment to the minute, and how long ago that is.
pub(super) fn moment(time: Option<Timestamp>) -> Markup {
    shown(time, "%Y-%m-%d %H:%M")
}

/// The same to the second.
pub(super) fn exact(time: Option<Timestamp>) -> Markup {
    shown(time, "%Y-%m-%d %H:%M:%S")
}

fn shown(time: Option<Timestamp>, form: &str) -> Markup {
    let Some(time) = time else { return html! { span.dim { "unknown" } } };
    html! {
        time datetime=(format!("{time:.3}")) title=(format!("{time:.3}")) {
            (time.strftime(form)) " UTC"
        }
        " " span.dim { "(" (age(Some(time), Timestamp::now())) " ago)" }
    }
}

/// Foreign text.
pub(super) fn said(text: &str) -> Markup {
    html! { bdi { (printable(text)) } }
}

pub(super) fn said_or_dash(text: Option<&str>) -> Markup {
    match text {
        Some(text) if !text.is_empty() => said(text),
        _ => html! { span.dim { "–" } },
    }
}

/// A number with separated thousands.
pub(super) fn count(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(super) fn dead_letters(number: usize) -> String {
    format!("{} dead letter{}", count(number), if number == 1 { "" } else { "s" })
}

/// Says that the broker is unreachable, and since when.
pub(super) fn trouble(trouble: Option<&Trouble>) -> Markup {
    html! {
        @if let Some(Trouble { since, why }) = trouble {
            p.notice.bad role="status" {
                "RabbitMQ cannot be reached since " (exact(Some(*since))) ", so the shown data is as old as that: " (why)
            }
        }
    }
}

/// Says how the dead letters are seen, with a button to look again if a look has a cost.
pub(super) fn how(
    kind: Kind,
    how: &How,
    shown: usize,
    in_queue: Option<u32>,
    back: &str,
) -> Markup {
    match how {
        How::Mirror { is_whole, forgotten, looked_at } => html! {
            @if !is_whole {
                p.notice role="status" { "The mirror of " code { (kind) } " is still being read: there may be more." }
            }
            @if *forgotten > 0 {
                p.notice role="status" { "The oldest " (dead_letters(*forgotten)) " are not shown: there are too many." }
            }
            @if let Some(number) = in_queue && *is_whole && number as usize != shown {
                div.notice role="status" {
                    p { "The queue " code { (kind.dead_letter_queue()) } " has " (dead_letters(number as usize)) " ready, and " (count(shown)) " are shown. "
                        "Some are older than the mirror, are being processed, or were removed by other means. "
                        "An action takes only those that are shown; " code { "dead list" } " counts all." }
                    (look_button(kind, *looked_at, back))
                    p.dim { "A look adds what the mirror lacks of the first " (MOST) " (or the first 64 MiB) in the queue. It requeues them, which RabbitMQ allows 100,000 times." }
                }
            }
        },
        How::Look { why, at, there_is_more } => html! {
            div.notice role="status" {
                p { "There is no mirror of " code { (kind) } " (" (said(why)) "), so only the queue itself can be looked at. "
                    "Each look requeues the dead letters there, which RabbitMQ allows 100,000 times." }
                @match at {
                    Some(at) => p { "This is a snapshot of " (exact(Some(*at))) "."
                        @if *there_is_more { " It shows the first " (shown) "; there are more." } },
                    None => p { "Nobody has looked yet." },
                }
                (look_button(kind, *at, back))
            }
        },
    }
}

fn look_button(kind: Kind, last: Option<Timestamp>, back: &str) -> Markup {
    html! {
        form method="post" action="/look" {
            input type="hidden" name="kind" value=(kind);
            input type="hidden" name="back" value=(back);
            button { @if last.is_some() { "Look again" } @else { "Look into the queue" } }
            @if last.is_some() { " " span.dim { "Last look: " (moment(last)) } }
        }
    }
}

/// The filter as a form, with the same fields as `dead`.
pub(super) fn filter(fields: &Fields, kinds: &[Kind]) -> Markup {
    let value = |name: &str| fields.get(name).unwrap_or_default().to_owned();
    let (kind, reason) = (value("kind"), value("reason"));
    let known = FailureReason::ALL.map(FailureReason::as_str);
    html! {
        form.filter method="get" action="/dead" role="search" aria-label="Filter" {
            div { label for="kind" { "Kind" }
                select #kind name="kind" {
                    option value="" { "all" }
                    @for one in kinds { option selected[one.as_str() == kind] { (one) } }
                } }
            div { label for="reason" { "Reason" }
                select #reason name="reason" {
                    option value="" { "all" }
                    @for one in known { option selected[one == reason] { (one) } }
                    @if !reason.is_empty() && !known.contains(&reason.as_str()) { option selected { (reason) } }
                } }
            (field("org", "Organisation", &value("org"), ""))
            (field("id", "Object id", &value("id"), ""))
            (field("command_id", "Command id", &value("command_id"), ""))
            (field("older_than", "Older than", &value("older_than"), "24h"))
            (field("newer_than", "Newer than", &value("newer_than"), "7d"))
            (field("superseded_by", "Superseded by events", &value("superseded_by"), ""))
            div.buttons { button { "Filter" } " " a href="/dead" { "Clear" } }
        }
    }
}

fn field(name: &str, label: &str, value: &str, example: &str) -> Markup {
    html! {
        div {
            label for=(name) { (label) }
            input id=(name) name=(name) value=(value) placeholder=[(!example.is_empty()).then_some(example)] autocomplete="off" spellcheck="false";
        }
    }
}

/// Groups of dead letters as a table.
pub(super) fn groups(groups: &[(Kind, Group)], fields: &Fields) -> Markup {
    html! {
        div.wide tabindex="0" role="region" aria-label="Table of groups" {
            table {
                caption { "Dead letters by kind, reason and organisation" }
                thead { tr {
                    th scope="col" { "Kind" } th scope="col" { "Reason" } th scope="col" { "Organisation" }
                    th.number scope="col" { "Count" } th.number scope="col" { "May have succeeded" }
                    th scope="col" { "First" } th scope="col" { "Last" } th scope="col" { "Detail of the last" }
                } }
                tbody {
                    @for (kind, group) in groups { (row(*kind, group, fields)) }
                    @if groups.is_empty() { tr { td colspan="8" { "No dead letters." } } }
                }
            }
        }
    }
}

fn row(kind: Kind, group: &Group, fields: &Fields) -> Markup {
    let of_group = Fields::read(&fields.query_with("kind", kind.as_str()));
    let of_group = Fields::read(&of_group.query_with("reason", &group.reason));
    let query = of_group.query_with("org", group.org_id.as_deref().unwrap_or_default());
    html! {
        tr {
            td { code { (kind) } }
            th scope="row" { a href={ "/dead?" (query) } { (said(&group.reason)) } }
            td { (said_or_dash(group.org_id.as_deref())) }
            td.number { (count(group.dead_letters)) }
            td.number { (count(group.ambiguous)) }
            td { (moment(group.oldest)) }
            td { (moment(group.newest)) }
            td.detail { (said(&group.detail)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        assert_eq!([0, 999, 5000, 1_234_567].map(count), ["0", "999", "5,000", "1,234,567"]);
        assert_eq!(dead_letters(1), "1 dead letter");
    }

    #[test]
    fn what_others_wrote_is_text() {
        let shown = said("<script>alert(1)</script>\u{1b}[2J").into_string();
        assert_eq!(shown, "<bdi>&lt;script&gt;alert(1)&lt;/script&gt; [2J</bdi>");
    }
}
