//! The report of a run: this test binary runs its own laws again, with a report.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use cas_core::testing::memory::MemoryStore;
use conformance::broken::{Exhibit, RECORDS};
use conformance::report::{DIRECTORY, Outcome, Report};

conformance::records!(whole_records, |_| async {
    Ok(Arc::new(MemoryStore::new()) as _)
});
conformance::image_store!(whole_images, |_| async {
    Ok(MemoryStore::new().with_images().images)
});
conformance::records!(
    faulty_records,
    |dir| async {
        let named = |exhibit: &&Exhibit<_>| exhibit.name == "CutsLongValues";
        let exhibit = RECORDS.iter().find(named).unwrap();
        (exhibit.open)(dir).await
    },
    &[
        ("values_of_any_length_come_back", "it cuts | long ones"),
        // The store does not make the promise that this law needs, so this is not a gap.
        ("a_killed_process_keeps_its_records", "it is in memory"),
    ]
);

/// Returns the report of the suites whose tests begin with `suites`.
fn report_of(suites: &[&str], directory: &Path) -> Report {
    let out = Command::new(env::current_exe().unwrap())
        .args(suites)
        .env(DIRECTORY, directory)
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stdout)
    );
    Report::read(directory).unwrap()
}

#[test]
fn suites_of_one_store_are_one_row_and_gaps_have_their_reason() {
    let directory = tempfile::tempdir().unwrap();
    let report = report_of(&["whole_", "faulty_"], directory.path());
    let page = report.markdown().to_string();
    let row = |store: &str| {
        let start = format!("| oci-cas-conformance | report::{store} |");
        let found = page.lines().find(|line| line.starts_with(&start));
        found
            .unwrap_or_else(|| panic!("no row {start} in\n{page}"))
            .to_owned()
    };
    let whole = row("whole");
    assert!(whole.contains("| atomic |"), "{whole}");
    assert!(whole.contains("19 kept, 8 not claimed"), "{whole}");
    assert!(whole.contains("| 26 kept |"), "{whole}");
    let faulty = row("faulty");
    assert!(faulty.contains("| atomic |"), "{faulty}");
    assert!(faulty.contains("18 kept, 8 not claimed, 1 gap"), "{faulty}");
    assert!(
        page.contains("| `values_of_any_length_come_back` | it cuts \\| long ones |"),
        "{page}"
    );
    assert!(!report.has_broken() && !page.contains("### Broken"));
}

#[test]
fn broken_laws_and_laws_that_did_not_run_are_reported() {
    let directory = tempfile::tempdir().unwrap();
    let line = |law: &str, verdict: &str| {
        format!(
            r#"{{"package":"p","suite":"laws::s3_content","group":"content","law":"{law}","verdict":"{verdict}","reason":"seen","ms":3}}"#
        )
    };
    let lines = [
        line("an_empty_blob_is_a_blob", "broken"),
        line("an_empty_blob_is_a_blob", "kept"),
        line("an_absent_blob_is_none", "skipped"),
    ];
    fs::write(directory.path().join("1.jsonl"), lines.join("\n")).unwrap();
    let report = Report::read(directory.path()).unwrap();
    let page = report.markdown().to_string();
    let not_run = conformance::laws::content::all().len() - 2;
    let told = format!("| p | laws::s3 |  | 1 skipped, **1 broken**, {not_run} not run |");
    assert!(page.contains(&told), "{page}");
    assert!(
        report.has_broken() && page.contains("### Skipped"),
        "{page}"
    );
    let json = report.json();
    assert_eq!(json["stores"][0]["groups"]["content"]["broken"], 1);
    assert_eq!(json["verdicts"].as_array().unwrap().len(), 2);
    assert_eq!(
        json["verdicts"][1]["verdict"],
        serde_json::json!(Outcome::Broken)
    );

    fs::write(directory.path().join("2.jsonl"), "no line").unwrap();
    assert!(Report::read(directory.path()).is_err());
}
