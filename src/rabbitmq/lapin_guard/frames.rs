//! Splits the broker's bytes into frames, and changes those that lapin could not survive. Pure.

use super::header::{Keep, make_readable, rewritten};

/// More than this is not kept allocated for the next frame.
const KEPT_ALLOCATED: usize = 16 * 1024;
const METHOD: u8 = 1;
const HEADER: u8 = 2;
/// Type, channel and size.
const FRAME_HEAD: usize = 7;
/// Class and method of what brings a message, and the bytes before its exchange and routing key.
const DELIVER: [u8; 4] = [0, 60, 0, 60];
const GET_OK: [u8; 4] = [0, 60, 0, 71];
const TAG_AND_FLAG: usize = 9;

/// Splits the broker's bytes into frames, in whatever pieces they come. Bodies pass at once; what is looked into is held
/// until it is whole.
#[derive(Debug)]
pub struct WireGuard {
    keep: Keep,
    held: Vec<u8>,
    passing: usize,
}

impl WireGuard {
    /// A guard at the beginning of a connection.
    pub fn new(keep: Keep) -> Self {
        Self { keep, held: Vec::new(), passing: 0 }
    }

    /// Takes bytes as they come from the broker, and adds to `out` what lapin may have.
    pub fn pass(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            if self.passing > 0 {
                let (passed, rest) = bytes.split_at(self.passing.min(bytes.len()));
                out.extend(passed);
                self.passing -= passed.len();
                bytes = rest;
                continue;
            }
            let wanted = frame_length(&self.held).unwrap_or(FRAME_HEAD) - self.held.len();
            let (held, rest) = bytes.split_at(wanted.min(bytes.len()));
            self.held.extend(held);
            bytes = rest;
            self.let_go(out);
        }
    }

    /// Passes on what needs no more looking at.
    fn let_go(&mut self, out: &mut Vec<u8>) {
        let Some(length) = frame_length(&self.held) else { return };
        match self.held[0] {
            METHOD | HEADER if self.held.len() < length => return,
            METHOD => make_address_readable(&mut self.held[FRAME_HEAD..]),
            HEADER => {
                let payload = &self.held[FRAME_HEAD..length - 1];
                if let Some(payload) = rewritten(payload, self.keep) {
                    self.held.truncate(FRAME_HEAD - 4);
                    self.held
                        .extend(u32::try_from(payload.len()).unwrap_or_default().to_be_bytes());
                    self.held.extend(payload);
                    self.held.push(FRAME_END);
                }
            }
            _ => self.passing = length - self.held.len(),
        }
        out.append(&mut self.held);
        self.held.shrink_to(KEPT_ALLOCATED);
    }
}

const FRAME_END: u8 = 0xCE;

fn frame_length(start: &[u8]) -> Option<usize> {
    let size = start.get(3..FRAME_HEAD)?;
    Some(size.iter().fold(0, |size, byte| size << 8 | usize::from(*byte)) + FRAME_HEAD + 1)
}

/// Exchange and routing key of a message are read by the library, and not by us.
fn make_address_readable(method: &mut [u8]) {
    let before = match method.first_chunk() {
        Some(&DELIVER) => 4 + 1 + method.get(4).map_or(0, |tag| usize::from(*tag)) + TAG_AND_FLAG,
        Some(&GET_OK) => 4 + TAG_AND_FLAG,
        _ => return,
    };
    let mut rest = method.get_mut(before..).unwrap_or_default();
    for _ in ["exchange", "routing key"] {
        let Some((length, text)) = rest.split_first_mut() else { return };
        let Some((text, after)) = text.split_at_mut_checked(usize::from(*length)) else { return };
        make_readable(text);
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind, 0, 1][..], &size, payload, &[FRAME_END]].concat()
    }

    fn delivery(message_id: &[u8], routing_key: &[u8]) -> Vec<u8> {
        let key = [&[u8::try_from(routing_key.len()).unwrap()], routing_key].concat();
        let deliver = [&DELIVER[..], b"\x03tag", &[0; TAG_AND_FLAG], b"\x00", &key].concat();
        let id = [&[u8::try_from(message_id.len()).unwrap()], message_id].concat();
        let header = [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0x00, 0x80][..], &id].concat();
        [
            frame(METHOD, &deliver),
            frame(HEADER, &header),
            frame(3, b"\xff\xce\x01\x02"),
            frame(8, b""),
        ]
        .concat()
    }

    fn passed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
        let keep = Keep { headers: &[], fault: "x-unreadable" };
        let (mut guard, mut out) = (WireGuard::new(keep), Vec::new());
        pieces.into_iter().for_each(|piece| guard.pass(piece, &mut out));
        out
    }

    #[test]
    fn what_can_be_read_passes_as_it_is() {
        let bytes = delivery(b"id", b"task.delete");
        assert_eq!(passed([&bytes[..]]), bytes);
        assert_eq!(
            passed([&b"AMQP\x00\x00\x09\x01"[..]]),
            b"AMQP\x00\x00\x09\x01",
            "another version's answer"
        );
    }

    #[test]
    fn a_routing_key_that_is_no_text_is_made_one_of_the_same_length() {
        let bytes = delivery(b"id", b"\xfft");
        assert_eq!(passed([&bytes[..]]), delivery(b"id", b"?t"));
        let get_ok =
            |key: &[u8]| [&GET_OK[..], &[0; TAG_AND_FLAG], b"\x02xx", key, &[0; 4]].concat();
        let (bad, good) = (frame(METHOD, &get_ok(b"\x01\xff")), frame(METHOD, &get_ok(b"\x01?")));
        assert_eq!(passed([&bad[..]]), good);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_in_which_pieces_the_bytes_come(piece in 1_usize..90) {
            let bytes = [delivery(b"\xff", b"\xff"), delivery(b"id", b"key")].concat();
            prop_assert_eq!(passed(bytes.chunks(piece)), passed([&bytes[..]]));
            prop_assert!(passed([&bytes[..]]).ends_with(&delivery(b"id", b"key")));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 1_u8..4) {
            passed([&frame(kind, &bytes)[..], &bytes]);
        }
    }
}
