//! The example `examples/volume-manager.rs` works.

use crate::common::{can, demo_archive};

#[expect(dead_code, reason = "its `main` is not called")]
#[path = "../../examples/volume-manager.rs"]
mod volume_manager;

#[test]
fn a_volume_manager_gives_containers_their_roots() {
    if !can(&[]) {
        return;
    }
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let archive = demo_archive(scratch.path());
    let [root, volumes] = ["root", "volumes"].map(|name| scratch.path().join(name));
    std::fs::create_dir(&volumes).unwrap();
    for _ in 0..2 {
        let steps = volume_manager::run(&root, &archive, &volumes).unwrap();
        let key = "volume-0#0.container";
        assert_eq!(steps.len(), 5, "{steps:?}");
        assert!(steps[0].starts_with("stored "), "{steps:?}");
        assert_eq!(steps[1], format!("prepared {key}"));
        let counts = steps[2].split(' ').filter_map(|word| word.parse().ok());
        let counts: Vec<u64> = counts.collect();
        assert!(counts[0] < counts[1], "{steps:?}");
        assert_eq!(
            steps[3],
            format!("mounted {key} again; its log contains: started")
        );
        assert_eq!(steps[4], format!("removed {key}"));
        assert_eq!(std::fs::read_dir(&volumes).unwrap().count(), 0);
    }
}
