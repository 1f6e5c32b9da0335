//! The guard between the socket and lapin: whatever the broker sends, in whatever pieces, nothing
//! panics, the pieces do not matter, and every header that comes out is one that lapin reads.
//!
//!     cargo fuzz run --sanitizer none --fuzz-dir tests/fuzz lapin_guard

#![no_main]

use arbitrary::Arbitrary;
use lapin::protocol::basic::parse_properties;
use libfuzzer_sys::fuzz_target;
use tallyfy_delete_worker::rabbitmq::envelope::KEEP;
use tallyfy_delete_worker::rabbitmq::lapin_guard::{WireGuard, rewritten};

const HEADER: u8 = 2;
const FRAME_END: u8 = 0xCE;
/// What a header grows by at most: it says what is wrong.
const ADDED: usize = 4096;
/// Class and weight, and the size of the body.
const BEFORE_PROPERTIES: usize = 12;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    frames: Vec<(u8, &'a [u8])>,
    /// Cut short, or something else than frames.
    rest: &'a [u8],
    piece: u8,
}

fuzz_target!(|input: Input| {
    let mut bytes = Vec::new();
    let has_large_body =
        input.frames.iter().any(|(kind, payload)| *kind == HEADER && is_large(payload));
    for (kind, payload) in &input.frames {
        let size = u32::try_from(payload.len()).expect("a small input").to_be_bytes();
        bytes.extend([&[*kind, 0, 1][..], &size, payload, &[FRAME_END]].concat());
        if *kind == HEADER {
            lapin_reads(payload);
        }
    }
    bytes.extend(input.rest);
    let whole = passed([&bytes[..]]);
    let in_pieces = passed(bytes.chunks(usize::from(input.piece).max(1)));
    // The end of an unfinished frame may be held back longer in the one case than in the other,
    // never differ.
    let both = whole.len().min(in_pieces.len());
    assert_eq!(whole[..both], in_pieces[..both]);
    // No body of the input is as large as that, so of one that is left out nothing may come.
    assert!(!has_large_body || whole.len() <= bytes.len() + ADDED * input.frames.len());
});

/// Whether the body that follows is to be left out.
fn is_large(payload: &[u8]) -> bool {
    let size = payload.get(4..BEFORE_PROPERTIES).map(|size| size.try_into().expect("eight bytes"));
    size.is_some_and(|size| u64::from_be_bytes(size) > KEEP.largest_body)
}

fn passed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let (mut guard, mut out) = (WireGuard::new(KEEP), Vec::new());
    pieces.into_iter().for_each(|piece| guard.pass(piece, &mut out));
    out
}

fn lapin_reads(payload: &[u8]) {
    let rewritten = rewritten(payload, KEEP);
    let payload = rewritten.as_deref().unwrap_or(payload);
    // Too short for a header: lapin ends the connection, as it should with such a broker.
    let Some(properties) = payload.get(BEFORE_PROPERTIES..) else { return };
    let (rest, _) = parse_properties(properties).expect("readable properties");
    assert!(rest.is_empty());
}
