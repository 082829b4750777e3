//! The names of the snapshots of layers.

use crate::digest::Digest;

/// Returns the chain IDs of the layers that have these diff IDs. The argument and the result both
/// begin with the lowest layer. Each chain ID identifies its layer together with all layers below.
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            None => *diff_id,
            Some(below) => Digest::sha256(format!("{below} {diff_id}").as_bytes()),
        });
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_are_computed_as_the_specification_says() {
        let layers = [b"a", b"b", b"c"].map(|layer| Digest::sha256(layer));
        let chain = chain_ids(&layers);
        let expected = [
            "sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb",
            "sha256:51c0c8ace48498d6f5fee6b0592cc06f2da0f3cbe09c5a34a97dce85c3889676",
            "sha256:2fce7f8ce91bcf0a1428b36e1024639fdbd9469eea762dba98aa749631885106",
        ];
        assert_eq!(
            chain.iter().map(ToString::to_string).collect::<Vec<_>>(),
            expected
        );
        assert!(chain_ids(&[]).is_empty());
    }
}
