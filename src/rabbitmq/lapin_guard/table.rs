//! Reads and writes AMQP's tables and arrays as bytes. Pure.

/// Whether it is flat enough, and every name, type and length is valid.
pub(super) fn is_plain(table: &[u8], depth: usize) -> bool {
    let mut rest = Reader(table);
    while let Some(entry) = rest.entry() {
        if str::from_utf8(entry.name).is_err() || !is_plain_value(entry.kind, entry.value, depth) {
            return false;
        }
    }
    rest.0.is_empty()
}

pub(super) fn is_plain_value(kind: u8, value: &[u8], depth: usize) -> bool {
    match kind {
        b'F' => depth > 0 && is_plain(value, depth - 1),
        b'A' if depth > 0 => {
            let mut rest = Reader(value);
            while let Some((kind, value)) = rest.value() {
                if !is_plain_value(kind, value, depth - 1) {
                    return false;
                }
            }
            rest.0.is_empty()
        }
        b'A' => false,
        _ => true,
    }
}

pub(super) fn put_short(bytes: &mut Vec<u8>, text: &[u8]) {
    // The text was read as a short string, or is one of our own names, so its length fits a byte.
    bytes.push(u8::try_from(text.len()).unwrap_or_default());
    bytes.extend(text);
}

pub(super) fn put_long(bytes: &mut Vec<u8>, text: &[u8]) {
    bytes.extend(u32::try_from(text.len()).unwrap_or_default().to_be_bytes());
    bytes.extend(text);
}

/// One header, with all its bytes.
pub(super) struct Entry<'a> {
    pub(super) name: &'a [u8],
    pub(super) kind: u8,
    pub(super) value: &'a [u8],
    pub(super) bytes: &'a [u8],
}

/// The bytes left to read. `None` means the end or something unreadable.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    pub(super) fn short(&mut self) -> Option<&'a [u8]> {
        let length = self.number(1)?;
        self.take(length)
    }

    pub(super) fn long(&mut self) -> Option<&'a [u8]> {
        let length = self.number(4)?;
        self.take(length)
    }

    /// Type and value.
    pub(super) fn value(&mut self) -> Option<(u8, &'a [u8])> {
        let before = self.0;
        let read = self.take(1).and_then(|kind| Some((kind[0], self.value_of(kind[0])?)));
        if read.is_none() {
            self.0 = before;
        }
        read
    }

    /// The types of RabbitMQ, which the library also uses where they differ from AMQP's.
    fn value_of(&mut self, kind: u8) -> Option<&'a [u8]> {
        match kind {
            b'V' => self.take(0),
            b't' | b'b' | b'B' => self.take(1),
            b's' | b'U' | b'u' => self.take(2),
            b'I' | b'i' | b'f' => self.take(4),
            b'D' => self.take(5),
            b'l' | b'L' | b'd' | b'T' => self.take(8),
            b'S' | b'x' | b'F' | b'A' => self.long(),
            _ => None,
        }
    }

    pub(super) fn entry(&mut self) -> Option<Entry<'a>> {
        let before = self.0;
        let read =
            self.short().and_then(|name| self.value().map(|(kind, value)| (name, kind, value)));
        let Some((name, kind, value)) = read else {
            self.0 = before;
            return None;
        };
        Some(Entry { name, kind, value, bytes: &before[..before.len() - self.0.len()] })
    }
}
