//! RabbitMQ's own header about the queues that a message was moved from, in a short form. Pure.

use std::iter;

use super::table::{Entry, Reader, put_long, put_short};

/// A command is moved from its work queue, and from the queue behind that one.
const LATEST: usize = 2;
/// Queues of ours and RabbitMQ's reasons have shorter names.
const LONGEST_NAME: usize = 40;
const FIELDS: [(&[u8], &[u8]); 3] = [(b"queue", b"Sx"), (b"reason", b"Sx"), (b"time", b"T")];

/// The header of this name with what is read of it, empty if nothing is; `None` if it is missing.
///
/// # A producer cannot hide that RabbitMQ moved its command
///
/// The header's latest entry says so, but a producer has a part in it. RabbitMQ lists in it all
/// routing keys of the message, and a `CC` may have so many that the whole header would be left
/// out. Of a header that was sent twice, RabbitMQ writes the first, and lapin reads the last. And
/// RabbitMQ 3 continues a producer's entry for its own queue and reason (`rabbit_dead_letter.erl`),
/// in which a name may occur twice, or with another type of text. So only the first of each is
/// passed on, and nothing else. Of the entries the latest two are, and the last: with each move,
/// versions up to 3.12 reverse the ones that there are (`group_by_queue_and_reason`), so that after
/// two moves the work queue's comes last.
pub(super) fn short(table: &[u8], name: &str) -> Option<Vec<u8>> {
    let header = entries(table).find(|entry| entry.name == name.as_bytes())?;
    let mut list = Reader(if header.kind == b'A' { header.value } else { &[] });
    let list: Vec<_> = iter::from_fn(|| list.value()).collect();
    let (latest, earlier) = list.split_at(list.len().min(LATEST));
    let tables = latest.iter().chain(earlier.last()).filter(|(kind, _)| *kind == b'F');
    let deaths = tables.flat_map(|(_, death)| {
        let mut bytes = vec![b'F'];
        put_long(&mut bytes, &short_death(death));
        bytes
    });
    let deaths: Vec<u8> = deaths.collect();
    let mut bytes = Vec::new();
    if !deaths.is_empty() {
        put_short(&mut bytes, name.as_bytes());
        bytes.push(b'A');
        put_long(&mut bytes, &deaths);
    }
    Some(bytes)
}

/// The table without the header of this name.
pub(super) fn without(table: &[u8], name: &str) -> Vec<u8> {
    let others = entries(table).filter(|entry| entry.name != name.as_bytes());
    others.flat_map(|entry| entry.bytes).copied().collect()
}

fn short_death(death: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, kinds) in FIELDS {
        let Some(field) = entries(death).find(|entry| entry.name == name) else { continue };
        if !kinds.contains(&field.kind) || field.value.len() > LONGEST_NAME {
            continue;
        }
        put_short(&mut bytes, name);
        if field.kind == b'T' {
            bytes.push(b'T');
            bytes.extend(field.value);
        } else {
            bytes.push(b'S');
            put_long(&mut bytes, field.value);
        }
    }
    bytes
}

fn entries(table: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    let mut rest = Reader(table);
    iter::from_fn(move || rest.entry())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "x-death";

    fn entry(name: &str, kind: u8, value: &[u8]) -> Vec<u8> {
        let mut entry = Vec::new();
        put_short(&mut entry, name.as_bytes());
        entry.push(kind);
        match kind {
            b'T' | b'l' => entry.extend(value),
            _ => put_long(&mut entry, value),
        }
        entry
    }

    fn text(name: &str, value: &str) -> Vec<u8> {
        entry(name, b'S', value.as_bytes())
    }

    fn death(queue: &str, more: &[u8]) -> Vec<u8> {
        let time = entry("time", b'T', &1_800_000_000_u64.to_be_bytes());
        [&text("queue", queue)[..], &text("reason", "expired"), &time, more].concat()
    }

    fn header(deaths: &[Vec<u8>]) -> Vec<u8> {
        let deaths = deaths.iter().flat_map(|death| {
            let mut table = vec![b'F'];
            put_long(&mut table, death);
            table
        });
        entry(NAME, b'A', &deaths.collect::<Vec<_>>())
    }

    #[test]
    fn a_producer_cannot_hide_that_rabbitmq_moved_its_command() {
        let moved = header(&[death("task.delete", &[])]);
        let keys = entry("routing-keys", b'A', &vec![b'x'; 100_000]);
        assert_eq!(short(&header(&[death("task.delete", &keys)]), NAME).unwrap(), moved, "a CC");
        let twice = [&moved[..], &text("other", "x"), &header(&[death("elsewhere", &[])])].concat();
        assert_eq!(short(&twice, NAME).unwrap(), moved, "the header twice");
        assert_eq!(without(&twice, NAME), text("other", "x"));
        let again = [text("queue", "elsewhere"), entry("reason", b'l', &[0; 8])].concat();
        assert_eq!(short(&header(&[death("task.delete", &again)]), NAME).unwrap(), moved, "a name");
        let bytes = entry("queue", b'x', b"task.delete");
        let rest = &death("task.delete", &[])[bytes.len()..];
        assert_eq!(short(&header(&[[&bytes, rest].concat()]), NAME).unwrap(), moved, "as bytes");
    }

    #[test]
    fn the_latest_two_deaths_and_the_last_pass_and_the_header_is_never_long() {
        let long = "x".repeat(255);
        let deaths = ["undeliverable", "forged", &long, "task.delete"].map(|of| death(of, &[]));
        let [one, two, _, four] = deaths.clone();
        assert_eq!(short(&header(&deaths), NAME).unwrap(), header(&[one, two, four]));
        let longest = death(&"x".repeat(LONGEST_NAME), &[]);
        let longest = header(&[longest.clone(), longest.clone(), longest]);
        assert!(short(&longest, NAME).is_some_and(|short| short == longest && short.len() < 400));
        let nameless = short(&header(&[death(&long, &[])]), NAME).unwrap();
        assert_eq!(nameless, header(&[death("", &[])[entry("queue", b'S', b"").len()..].to_vec()]));
    }

    #[test]
    fn what_is_no_list_is_left_out_and_nothing_is_added() {
        assert_eq!(short(&text(NAME, "forged"), NAME), Some(Vec::new()));
        assert_eq!(short(&entry(NAME, b'A', &text("", "x")[1..]), NAME), Some(Vec::new()));
        assert_eq!(short(&text("other", "x"), NAME), None);
    }
}
