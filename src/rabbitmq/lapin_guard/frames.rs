//! Splits the broker's bytes into frames, and changes those that would crash lapin. Pure.

use std::collections::HashMap;
use std::fmt;

use sha1::{Digest, Sha1};

use super::header::{Keep, left_out, make_readable, rewritten};

/// No more than this stays allocated for the next frame.
const KEPT_ALLOCATED: usize = 16 * 1024;
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
/// Type, channel and size.
const FRAME_HEAD: usize = 7;
/// Class and method of the frames that bring a message, and the number of bytes before its exchange
/// and routing key.
const DELIVER: [u8; 4] = [0, 60, 0, 60];
const GET_OK: [u8; 4] = [0, 60, 0, 71];
const TAG_AND_FLAG: usize = 9;

/// Splits the broker's bytes into frames, in whatever pieces they arrive. Bodies pass at once; a
/// frame that is inspected is held until it is complete.
///
/// # A body that is too large is never held
///
/// The header before a body gives its size. If that exceeds the limit in `keep`, each byte is
/// dropped on arrival, and lapin gets the SHA-1 of the body instead: enough to tell such messages
/// apart.
#[derive(Debug)]
pub struct WireGuard {
    keep: Keep,
    held: Vec<u8>,
    /// Bytes of the current frame that pass without inspection.
    passing: usize,
    /// If those bytes are left out, the channel whose body they are.
    swallowing: Option<u16>,
    left_out: HashMap<u16, LeftOut>,
}

/// A body that is left out, as far as it has arrived.
struct LeftOut {
    to_come: u64,
    digest: Sha1,
}

impl fmt::Debug for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeftOut").field("to_come", &self.to_come).finish_non_exhaustive()
    }
}

impl WireGuard {
    /// A guard for a new connection.
    pub fn new(keep: Keep) -> Self {
        Self { keep, held: Vec::new(), passing: 0, swallowing: None, left_out: HashMap::new() }
    }

    /// Takes bytes from the broker, and appends to `out` what lapin may see.
    pub fn pass(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            if self.passing > 0 {
                let (passed, rest) = bytes.split_at(self.passing.min(bytes.len()));
                if let Some(channel) = self.swallowing {
                    self.swallow(channel, passed, out);
                } else {
                    out.extend(passed);
                    self.passing -= passed.len();
                }
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

    /// Passes on the bytes that need no more inspection.
    fn let_go(&mut self, out: &mut Vec<u8>) {
        let Some(length) = frame_length(&self.held) else { return };
        match self.held[0] {
            METHOD | HEADER if self.held.len() < length => return,
            METHOD => {
                self.left_out.remove(&self.channel());
                make_address_readable(&mut self.held[FRAME_HEAD..]);
            }
            HEADER => {
                let channel = self.channel();
                let payload = &self.held[FRAME_HEAD..length - 1];
                match left_out(payload, self.keep) {
                    Some(to_come) => {
                        self.left_out.insert(channel, LeftOut { to_come, digest: Sha1::new() })
                    }
                    None => self.left_out.remove(&channel),
                };
                if let Some(payload) = rewritten(payload, self.keep) {
                    self.held.truncate(FRAME_HEAD - 4);
                    self.held
                        .extend(u32::try_from(payload.len()).unwrap_or_default().to_be_bytes());
                    self.held.extend(payload);
                    self.held.push(FRAME_END);
                }
            }
            BODY if self.left_out.contains_key(&self.channel()) => {
                self.passing = length - self.held.len();
                self.swallowing = Some(self.channel());
                self.held.clear();
            }
            _ => self.passing = length - self.held.len(),
        }
        out.append(&mut self.held);
        self.held.shrink_to(KEPT_ALLOCATED);
    }

    /// The channel of the held frame.
    fn channel(&self) -> u16 {
        self.held.get(1..3).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Drops a piece of a body frame, except the frame's end byte.
    fn swallow(&mut self, channel: u16, piece: &[u8], out: &mut Vec<u8>) {
        let payload = &piece[..piece.len().min(self.passing - 1)];
        self.passing -= piece.len();
        if self.passing == 0 {
            self.swallowing = None;
        }
        let Some(mut body) = self.left_out.remove(&channel) else { return };
        body.digest.update(payload);
        body.to_come = body.to_come.saturating_sub(payload.len() as u64);
        if self.passing > 0 || body.to_come > 0 {
            self.left_out.insert(channel, body);
        } else {
            let digest = body.digest.finalize();
            out.push(BODY);
            out.extend(channel.to_be_bytes());
            out.extend(u32::try_from(digest.len()).unwrap_or_default().to_be_bytes());
            out.extend(digest);
            out.push(FRAME_END);
        }
    }
}

const FRAME_END: u8 = 0xCE;

fn frame_length(start: &[u8]) -> Option<usize> {
    let size = start.get(3..FRAME_HEAD)?;
    Some(size.iter().fold(0, |size, byte| size << 8 | usize::from(*byte)) + FRAME_HEAD + 1)
}

/// The library reads a message's exchange and routing key, so they must be valid UTF-8.
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

    const KEEP: Keep = Keep {
        headers: &[],
        deaths: "x-death",
        fault: "x-unreadable",
        largest_body: 64,
        left_out: "x-left-out",
    };

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        frame_on(1, kind, payload)
    }

    fn frame_on(channel: u8, kind: u8, payload: &[u8]) -> Vec<u8> {
        let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind, 0, channel][..], &size, payload, &[FRAME_END]].concat()
    }

    fn head_of(channel: u8, size: u64) -> Vec<u8> {
        frame_on(channel, HEADER, &[&[0, 60, 0, 0][..], &size.to_be_bytes(), &[0, 0]].concat())
    }

    /// Its header, and its body in frames of 50 bytes, each with a frame of another channel behind
    /// it.
    fn large(channel: u8, body: &[u8]) -> Vec<u8> {
        let frames = body.chunks(50).flat_map(|chunk| [frame_on(channel, BODY, chunk), other()]);
        [head_of(channel, body.len() as u64), frames.collect::<Vec<_>>().concat()].concat()
    }

    fn other() -> Vec<u8> {
        frame_on(9, BODY, b"another's")
    }

    #[test]
    fn a_body_that_is_too_large_is_never_held() {
        let out = passed([&[large(1, &[7; 5000]), delivery(b"id", b"key")].concat()[..]]);
        let digest = frame_on(1, BODY, &Sha1::digest([7; 5000]));
        let body = [other().repeat(99), digest, other(), delivery(b"id", b"key")].concat();
        assert!(out.ends_with(&body), "its digest, where its last byte was");
        assert!(out.len() < body.len() + 150, "nothing but a header is left of it");
        assert_eq!(
            passed([&large(1, &[7; 64])[..]]),
            large(1, &[7; 64]),
            "the largest that passes"
        );
    }

    #[test]
    fn a_body_that_breaks_off_spoils_nothing_behind_it() {
        let begun = [head_of(1, 5000), frame_on(1, BODY, &[7; 50])].concat();
        let out = passed([&[begun, delivery(b"id", b"key")].concat()[..]]);
        assert!(out.ends_with(&delivery(b"id", b"key")));
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
        let (mut guard, mut out) = (WireGuard::new(KEEP), Vec::new());
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
            let bytes = [delivery(b"\xff", b"\xff"), large(2, &[3; 333]), delivery(b"id", b"key")].concat();
            prop_assert_eq!(passed(bytes.chunks(piece)), passed([&bytes[..]]));
            prop_assert!(passed([&bytes[..]]).ends_with(&delivery(b"id", b"key")));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 1_u8..4) {
            passed([&frame(kind, &bytes)[..], &bytes]);
        }
    }
}
