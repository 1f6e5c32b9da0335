//! Ids that are derived from a name, and so come out the same each time (`UUIDv5`).

use sha1::{Digest, Sha1};
use uuid::{Builder, Uuid};

/// Changing it would change the id of every redelivered command.
const NAMESPACE: Uuid = Uuid::from_u128(0x5c0d_5e6b_8b0e_4f0c_9d5a_7a11_1f1d_e1e7);

/// The id of the name that these parts make together.
///
/// `uuid` can do the same, but its SHA-1 does not use the processor's instructions for that.
pub(crate) fn derived(name: &[&[u8]]) -> Uuid {
    let mut hash = Sha1::new_with_prefix(NAMESPACE);
    for part in name {
        hash.update(part);
    }
    let [bytes @ .., _, _, _, _]: [u8; 20] = hash.finalize().into();
    Builder::from_sha1_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_uuid_v5_of_its_name() {
        // Python: uuid.uuid5(uuid.UUID("5c0d5e6b-8b0e-4f0c-9d5a-7a111f1de1e7"), "o/t")
        let id = "93bc2bf7-d9fa-584d-9997-38862ba603e5";
        assert_eq!(derived(&[b"o/t"]).to_string(), id);
        assert_eq!(derived(&[b"o", b"/", b"t"]).to_string(), id);
    }
}
