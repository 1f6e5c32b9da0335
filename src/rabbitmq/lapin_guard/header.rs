//! Reads a message's header as the broker sends it (class, size, properties), before lapin does.
//! Leaves out whatever would crash lapin; if the reader of the message then lacks something, that
//! becomes a fault of the message. Pure.

use std::ops::Range;
use std::str;

use super::deaths;
use super::table::{Reader, is_plain, is_plain_value, put_long, put_short};

/// What to keep of a message that cannot be passed on unchanged.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// Names of the headers to keep, the most important first. Deep or long values are left out
    /// even so.
    pub headers: &'static [&'static str],
    /// Name of the header in which the broker lists the queues that the message was moved from. It
    /// is always kept, in a short form.
    pub deaths: &'static str,
    /// Name of the header that says what was wrong with the message. The guard adds it; a producer
    /// may forge it.
    pub fault: &'static str,
    /// A larger body is left out and replaced by its SHA-1.
    pub largest_body: u64,
    /// Name of the header that says how many bytes were left out. The guard adds it; a producer may
    /// forge it.
    pub left_out: &'static str,
}

/// Every AMQP peer accepts frames of 4,096 bytes, whatever was negotiated. Eight of them surround
/// the payload.
const LARGEST: usize = 4096 - 8;
/// The deepest nesting of tables and arrays. `x-death` has two levels. Each level costs the library
/// up to ten KiB of a stack of two MiB.
const DEEPEST: usize = 16;
const LONGEST_TEXT: usize = 1024;
const HEADERS: usize = 2;
/// The properties in the order of their flags, from the highest bit.
const PROPERTIES: [(&str, Form); 14] = [
    ("content_type", Form::Text),
    ("content_encoding", Form::Text),
    ("headers", Form::Table),
    ("delivery_mode", Form::Bytes(1)),
    ("priority", Form::Bytes(1)),
    ("correlation_id", Form::Text),
    ("reply_to", Form::Text),
    ("expiration", Form::Text),
    ("message_id", Form::Text),
    ("timestamp", Form::Bytes(8)),
    ("type", Form::Text),
    ("user_id", Form::Text),
    ("app_id", Form::Text),
    ("cluster_id", Form::Text),
];

/// Class and weight, and the size of the body.
const CLASS_AND_SIZE: usize = 12;
const SIZE: Range<usize> = 4..CLASS_AND_SIZE;
/// The length of a SHA-1.
const DIGEST_BYTES: [u8; 8] = 20_u64.to_be_bytes();

#[derive(Clone, Copy)]
enum Form {
    Text,
    Table,
    Bytes(usize),
}

/// # Nothing that lapin cannot read ever reaches it
///
/// lapin reads nested tables by recursion on a thread whose stack size we cannot set, and an
/// overflow ends the process. A short string that is not UTF-8 ends the connection, each time it is
/// delivered. So does a header larger than the negotiated frame, which the broker does send; one of
/// 32 frames first silences the connection for two heartbeats. Therefore a small, flat and readable
/// header passes unchanged (`None`) but for its deaths, and any other is rewritten with only the
/// headers that `keep` names. The header of a body that is left out is rewritten too.
pub fn rewritten(payload: &[u8], keep: Keep) -> Option<Vec<u8>> {
    let (frame, properties) = payload.split_at_checked(CLASS_AND_SIZE)?;
    let found = read_properties(properties);
    let left_out = left_out(payload, keep);
    let fault = match left_out {
        Some(bytes) => Some(format!("its body has {bytes} bytes, more than {}", keep.largest_body)),
        None => {
            found.as_ref().map_or_else(|| Some("its properties cannot be read".to_owned()), fault)
        }
    };
    let found = found.unwrap_or_default();
    let table = found[HEADERS].unwrap_or_default();
    let deaths = deaths::short(table, keep.deaths);
    let passes = fault.is_none() && is_plain(table, DEEPEST) && payload.len() <= LARGEST;
    if passes && deaths.is_none() {
        return None;
    }
    let size = left_out.map_or(&frame[SIZE], |_| &DIGEST_BYTES);
    let mut added: Vec<_> = fault.iter().map(|fault| entry_of_fault(keep.fault, fault)).collect();
    added.extend(left_out.map(|bytes| entry_of_number(keep.left_out, bytes)));
    added.extend(deaths);
    let table = if passes {
        [deaths::without(table, keep.deaths), added.concat()].concat()
    } else {
        kept(table, &added, keep, room(&found))
    };
    Some([&frame[..SIZE.start], size, &write_properties(&found, &table)].concat())
}

/// The size of the body that follows this header, if it is to be left out.
pub(super) fn left_out(payload: &[u8], keep: Keep) -> Option<u64> {
    let size = payload.get(SIZE)?;
    let size = size.iter().fold(0, |size, byte| size << 8 | u64::from(*byte));
    (size > keep.largest_body).then_some(size)
}

/// Replaces invalid UTF-8 in a short string that the library reads; the length stays the same.
pub(super) fn make_readable(text: &mut [u8]) {
    if str::from_utf8(text).is_err() {
        text.iter_mut().filter(|byte| !byte.is_ascii()).for_each(|byte| *byte = b'?');
    }
}

/// Values without their lengths.
type Found<'a> = [Option<&'a [u8]>; PROPERTIES.len()];

fn read_properties(bytes: &[u8]) -> Option<Found<'_>> {
    let mut rest = Reader(bytes);
    let flags = rest.number(2)?;
    let mut found = Found::default();
    for (place, (_, form)) in PROPERTIES.iter().enumerate() {
        if flags & (1 << (15 - place)) != 0 {
            found[place] = Some(match form {
                Form::Text => rest.short()?,
                Form::Table => rest.long()?,
                Form::Bytes(count) => rest.take(*count)?,
            });
        }
    }
    (rest.0.is_empty() && flags % 4 == 0).then_some(found)
}

fn fault(found: &Found<'_>) -> Option<String> {
    let texts = PROPERTIES.iter().zip(found).filter(|((_, form), _)| matches!(form, Form::Text));
    let mut bad = texts.filter_map(|((name, _), value)| value.map(|value| (name, value)));
    let (name, value) = bad.find(|(_, value)| str::from_utf8(value).is_err())?;
    Some(format!("its {name} is not UTF-8: {}", value.escape_ascii()))
}

/// For the header table, beside the other properties.
fn room(found: &Found<'_>) -> usize {
    let others = (0..).zip(found).filter(|(place, _)| *place != HEADERS);
    let others: usize = others.filter_map(|(_, value)| value.map(|value| value.len() + 1)).sum();
    LARGEST - 18 - others
}

fn write_properties(found: &Found<'_>, table: &[u8]) -> Vec<u8> {
    let (mut flags, mut values) = (0_u16, Vec::new());
    for (place, (_, form)) in PROPERTIES.iter().enumerate() {
        match (form, found[place]) {
            (Form::Table, _) => put_long(&mut values, table),
            (Form::Text, Some(text)) if str::from_utf8(text).is_ok() => {
                put_short(&mut values, text);
            }
            (Form::Bytes(_), Some(bytes)) => values.extend(bytes),
            _ => continue,
        }
        flags |= 1 << (15 - place);
    }
    [&flags.to_be_bytes()[..], &values].concat()
}

/// The added entries, and the entries that `keep` names and that are small and flat enough, in at
/// most `room` bytes. Of several entries with one name, the last.
fn kept(table: &[u8], added: &[Vec<u8>], keep: Keep, room: usize) -> Vec<u8> {
    let mut found = vec![None; keep.headers.len()];
    let mut rest = Reader(table);
    while let Some(entry) = rest.entry() {
        let place = keep.headers.iter().position(|name| name.as_bytes() == entry.name);
        let is_small =
            entry.value.len() <= LONGEST_TEXT && is_plain_value(entry.kind, entry.value, DEEPEST);
        if let Some(place) = place.filter(|_| is_small) {
            found[place] = Some(entry.bytes);
        }
    }
    let entries = added.iter().map(Vec::as_slice).chain(found.into_iter().flatten());
    entries.fold(Vec::new(), |kept, bytes| {
        if kept.len() + bytes.len() <= room { [&kept[..], bytes].concat() } else { kept }
    })
}

fn entry_of_fault(name: &str, fault: &str) -> Vec<u8> {
    let mut entry = Vec::new();
    put_short(&mut entry, name.as_bytes());
    entry.push(b'S');
    put_long(&mut entry, &fault.as_bytes()[..fault.len().min(LONGEST_TEXT)]);
    entry
}

fn entry_of_number(name: &str, number: u64) -> Vec<u8> {
    let mut entry = Vec::new();
    put_short(&mut entry, name.as_bytes());
    entry.push(b'l');
    entry.extend(number.to_be_bytes());
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::protocol::basic::{AMQPProperties, parse_properties};
    use lapin::types::AMQPValue;
    use proptest::prelude::*;

    const KEEP: Keep = Keep {
        headers: &["x-attempts", "traceparent", "tracestate"],
        deaths: "x-death",
        fault: "x-unreadable",
        largest_body: 64,
        left_out: "x-left-out",
    };
    const FRAME: [u8; 12] = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];

    fn header(flags: u16, values: &[&[u8]]) -> Vec<u8> {
        [&FRAME[..], &flags.to_be_bytes(), &values.concat()].concat()
    }

    fn with_table(entries: &[u8]) -> Vec<u8> {
        let mut table = Vec::new();
        put_long(&mut table, entries);
        header(0x2000, &[&table])
    }

    fn entry(name: &str, kind: u8, value: &[u8]) -> Vec<u8> {
        let mut entry = Vec::new();
        put_short(&mut entry, name.as_bytes());
        entry.push(kind);
        entry.extend(value);
        entry
    }

    fn text(name: &str, value: &str) -> Vec<u8> {
        let mut long = Vec::new();
        put_long(&mut long, value.as_bytes());
        entry(name, b'S', &long)
    }

    fn nested(levels: usize) -> Vec<u8> {
        (0..levels).fold(Vec::new(), |inner, _| {
            let mut table = Vec::new();
            put_long(&mut table, &inner);
            entry("", b'F', &table)
        })
    }

    /// Reads it like lapin.
    fn read(payload: &[u8]) -> AMQPProperties {
        let payload = rewritten(payload, KEEP).unwrap_or(payload.to_vec());
        assert!(payload.len() <= LARGEST && payload[..12] == FRAME);
        let (rest, properties) = parse_properties(&payload[12..]).expect("readable properties");
        assert!(rest.is_empty());
        properties
    }

    fn text_of(properties: &AMQPProperties, name: &str) -> Option<String> {
        match properties.headers().as_ref()?.inner().get(name)? {
            AMQPValue::LongString(text) => Some(text.to_string()),
            other => Some(format!("{other:?}")),
        }
    }

    #[test]
    fn what_can_be_read_passes_as_it_is() {
        assert_eq!(rewritten(&header(0, &[]), KEEP), None);
        assert_eq!(rewritten(&header(0x1080, &[&[2], b"\x02id"]), KEEP), None);
        assert_eq!(
            rewritten(&with_table(&[text("any", "thing"), nested(DEEPEST)].concat()), KEEP),
            None
        );
        assert_eq!(rewritten(&with_table(&text("long", &"x".repeat(4000))), KEEP), None);
    }

    #[test]
    fn what_is_deep_or_large_is_left_out_and_what_the_worker_reads_is_kept() {
        let ours =
            [text("traceparent", "00-1"), entry("x-attempts", b'l', &7_i64.to_be_bytes())].concat();
        let strange = [0xff, b'V'];
        let strange = [&[1][..], &strange].concat();
        for foreign in [nested(DEEPEST + 1), text("long", &"x".repeat(100_000)), strange] {
            let properties = read(&with_table(&[foreign, ours.clone()].concat()));
            assert_eq!(text_of(&properties, "traceparent").as_deref(), Some("00-1"));
            assert_eq!(text_of(&properties, "x-attempts").as_deref(), Some("LongLongInt(7)"));
            assert_eq!(properties.headers().as_ref().unwrap().inner().len(), 2);
        }
    }

    #[test]
    fn of_several_headers_with_one_name_the_last_counts() {
        let twice = [text("traceparent", "00-1"), text("traceparent", "00-2")].concat();
        let large = [text("long", &"x".repeat(5000)), twice.clone()].concat();
        for entries in [twice, large] {
            assert_eq!(
                text_of(&read(&with_table(&entries)), "traceparent").as_deref(),
                Some("00-2")
            );
        }
    }

    #[test]
    fn a_property_that_is_no_utf_8_is_named_and_left_out() {
        let properties = read(&header(0x0480, &[b"\x04corr", b"\x03\xff\xfe!"]));
        assert_eq!(properties.correlation_id().as_ref().unwrap().as_str(), "corr");
        assert!(properties.message_id().is_none());
        let fault = text_of(&properties, KEEP.fault);
        assert_eq!(fault.as_deref(), Some(r"its message_id is not UTF-8: \xff\xfe!"));
    }

    #[test]
    fn properties_that_end_too_early_are_a_fault_of_the_message() {
        for broken in [&header(0x1080, &[&[2], b"\x09id"])[..], &header(0x0001, &[]), &FRAME] {
            let fault = text_of(&read(broken), KEEP.fault);
            assert_eq!(fault.as_deref(), Some("its properties cannot be read"));
        }
    }

    #[test]
    fn the_header_of_a_body_that_is_left_out_says_so_and_keeps_the_rest() {
        let table = text("traceparent", "00-1");
        let mut payload = with_table(&table);
        payload[SIZE].copy_from_slice(&u64::to_be_bytes(64));
        assert_eq!(rewritten(&payload, KEEP), None, "the largest that passes");
        payload[SIZE].copy_from_slice(&u64::to_be_bytes(65));
        let rewritten = rewritten(&payload, KEEP).unwrap();
        assert_eq!((&rewritten[..4], &rewritten[SIZE]), (&FRAME[..4], &DIGEST_BYTES[..]));
        let (_, properties) = parse_properties(&rewritten[CLASS_AND_SIZE..]).unwrap();
        let of = |name| text_of(&properties, name);
        assert_eq!(of(KEEP.fault).as_deref(), Some("its body has 65 bytes, more than 64"));
        assert_eq!(of(KEEP.left_out).as_deref(), Some("LongLongInt(65)"));
        assert_eq!(of("traceparent").as_deref(), Some("00-1"));
    }

    #[test]
    fn the_deaths_are_kept_however_long_everything_is() {
        let death = [text("queue", "task.delete"), text("more", &"x".repeat(5000))].concat();
        let (mut table, mut deaths) = (Vec::new(), vec![b'F']);
        put_long(&mut table, &death);
        deaths.extend(&table);
        let mut list = Vec::new();
        put_long(&mut list, &deaths);
        let entries = [text("traceparent", &"0".repeat(1024)), entry(KEEP.deaths, b'A', &list)];
        let mut table = Vec::new();
        put_long(&mut table, &entries.concat());
        let longest = [&[255][..], &[0xff; 255]].concat();
        let values: Vec<&[u8]> = [&longest[..], &longest, &table]
            .into_iter()
            .chain([&[2][..], &[1]])
            .chain(std::iter::repeat_n(&longest[..], 4))
            .chain([&[0; 8][..]])
            .chain(std::iter::repeat_n(&longest[..], 4))
            .collect();
        let properties = read(&header(0xfffc, &values));
        assert!(text_of(&properties, KEEP.fault).unwrap().len() >= LONGEST_TEXT);
        let kept = text_of(&properties, KEEP.deaths).unwrap();
        assert!(kept.contains("queue") && !kept.contains("more"), "{kept}");
    }

    #[test]
    fn a_small_header_keeps_all_but_the_length_of_its_deaths() {
        let (mut table, mut list) = (vec![b'F'], Vec::new());
        put_long(&mut table, &[text("queue", "q"), text("more", "x")].concat());
        put_long(&mut list, &table);
        let entries = [text("any", "thing"), entry(KEEP.deaths, b'A', &list)].concat();
        let properties = read(&with_table(&entries));
        assert_eq!(text_of(&properties, "any").as_deref(), Some("thing"));
        let kept = text_of(&properties, KEEP.deaths).unwrap();
        assert!(kept.contains("queue") && !kept.contains("more"), "{kept}");
    }

    #[test]
    fn the_deepest_table_that_a_message_can_hold_costs_no_stack() {
        let entries = (0..1_000_000_u32)
            .rev()
            .flat_map(|inner| [&[0, b'F'][..], &(6 * inner).to_be_bytes()].concat());
        let deep = with_table(&entries.collect::<Vec<_>>());
        assert!(read(&deep).headers().as_ref().unwrap().inner().is_empty());
    }

    fn value() -> impl Strategy<Value = (u8, Vec<u8>)> {
        let kinds = proptest::sample::select(b"tbBsUuIifDlLdTVSxFAz".to_vec());
        (kinds, proptest::collection::vec(any::<u8>(), 0..40))
    }

    proptest! {
        #[test]
        fn nothing_that_lapin_cannot_read_ever_reaches_it(
            flags in any::<u16>(), values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..16),
            sizes in any::<bool>(), entries in proptest::collection::vec((prop_oneof!["[a-z]{0,9}", Just(KEEP.deaths.to_owned())], value()), 0..9),
        ) {
            // With lengths that fit, or with arbitrary lengths.
            let values: Vec<Vec<u8>> = values.into_iter().map(|mut value| {
                if sizes { value.truncate(255); value.insert(0, u8::try_from(value.len()).unwrap()); }
                value
            }).collect();
            let values: Vec<_> = values.iter().map(Vec::as_slice).collect();
            read(&header(flags, &values));
            let table = entries.iter().flat_map(|(name, (kind, value))| {
                let mut long = Vec::new();
                put_long(&mut long, value);
                let mut fit = value.clone();
                fit.resize(match kind { b'V' => 0, b't' | b'b' | b'B' => 1, b's' | b'U' | b'u' => 2, b'I' | b'i' | b'f' => 4, b'D' => 5, _ => 8 }, 0);
                match (sizes, kind) {
                    (false, _) => entry(name, *kind, value),
                    (_, b'S' | b'x' | b'F' | b'A') => entry(name, *kind, &long),
                    _ => entry(name, *kind, &fit),
                }
            });
            read(&with_table(&table.collect::<Vec<_>>()));
        }
    }
}
