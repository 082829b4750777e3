//! Random stacks of layers with few names, so that members often have the same path.

use testkit::archive::{Header, Tar};

use crate::compare::{can_mount, compare};

/// Random numbers from a seed, by Vigna's splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) % most as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn path(&mut self) -> String {
        let names: Vec<&str> = (0..=self.below(3))
            .map(|_| self.pick(&["a", "b", "c", "link", "-", "!x"]))
            .collect();
        names.join("/")
    }
}

fn layer(random: &mut Random) -> Vec<u8> {
    let mut tar = Tar::new();
    for _ in 0..=random.below(12) {
        let path = random.path();
        let (mode, owner) = (random.below(0o10_000) as u64, random.below(70_000) as u64);
        let describe = |header: Header| header.mode(mode).owner(owner, owner + 1);
        tar = match random.below(12) {
            0..=3 => {
                let size = [0, 1, 511, 512, 513, 1024, 3000][random.below(7)];
                let body = vec![b'a' + random.below(20) as u8; size];
                let header = Header::new(b'0', &path).size(size as u64);
                tar.member(describe(header), body)
            }
            4 => {
                let value = random.pick(&["", "1", "a longer value"]);
                let records = [
                    ("SCHILY.xattr.user.one", value.as_bytes()),
                    ("SCHILY.xattr.trusted.two", b"2"),
                    ("mtime", b"1234567890.123456789"),
                ];
                let tar = tar.pax(&records[..=random.below(3)]);
                tar.member(
                    describe(Header::new(random.pick(&["0", "5"]).as_bytes()[0], &path)),
                    "",
                )
            }
            5 => tar.member(describe(Header::new(b'5', &path)), ""),
            6 => {
                let target = random.pick(&["a", "/b", "../c", ".", "absent", "link", "../../.."]);
                tar.symlink(&path, target)
            }
            // The target exists, unless a link has replaced its parent.
            7 => {
                let target = random.path();
                tar.file(&target, "linked").hardlink(&path, target)
            }
            8 | 9 => {
                let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
                tar.file(format!("{parent}/.wh.{name}"), "")
            }
            10 => tar.file(format!("{path}/.wh..wh..opq"), ""),
            _ => tar.member(describe(Header::new(b'3', &path)).device(259, 300), ""),
        };
    }
    match random.below(4) {
        // Some writers leave out the end of the archive, and some do not pad with zeros.
        0 => tar.0,
        1 => {
            tar.member(Header::new(b'0', "odd").size(100), [b'x'; 100])
                .raw([0; 1024])
                .0
        }
        _ => tar.end(),
    }
}

/// Returns a random stack of layers.
pub(crate) fn layers(seed: u64) -> Vec<Vec<u8>> {
    let mut random = Random(seed);
    (0..=random.below(4)).map(|_| layer(&mut random)).collect()
}

/// Compares the images of some stacks with directories. Returns how many of them could be made.
fn compare_stacks(seeds: std::ops::Range<u64>) -> usize {
    let mut made = 0;
    for seed in seeds {
        eprintln!("seed {seed}");
        made += usize::from(compare(&layers(seed)));
    }
    made
}

#[test]
fn images_equal_directories() {
    if can_mount() {
        let made = compare_stacks(0..80);
        assert!(made > 40, "only {made} stacks were made");
    }
}

#[test]
#[ignore = "takes minutes; `cargo xtask long` runs it"]
fn five_thousand_images_equal_directories() {
    if can_mount() {
        let made = compare_stacks(1_000..9_000);
        assert!(made > 5_000, "only {made} stacks were made");
    }
}
