//! Every test that `docs/SEEDS.md` names must exist.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;

#[test]
fn every_test_on_the_page_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = std::fs::read_to_string(root.join("docs/SEEDS.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| "));
    let rows: Vec<&str> = rows
        .filter(|line| !line.starts_with("| theirs |"))
        .collect();
    for row in &rows {
        let cell = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let named = cell.trim_matches('`').split_once(".rs::");
        let Some((file, test)) = named else {
            panic!("the row names no test: {row}");
        };
        let file = format!("{file}.rs");
        let source = std::fs::read_to_string(root.join(&file));
        let source = source.unwrap_or_else(|error| panic!("{file}: {error}"));
        let function = format!("fn {test}(");
        assert!(source.contains(&function), "{file} has no test {test}");
    }
    assert!(rows.len() > 40, "the page has too few rows");
}

/// The names on containerd's page.
const CONTAINERD: &str = "
    MediaTypeDockerSchema2Layer MediaTypeDockerSchema2LayerForeign MediaTypeDockerSchema2LayerGzip
    MediaTypeDockerSchema2LayerForeignGzip MediaTypeDockerSchema2Config
    MediaTypeDockerSchema2Manifest MediaTypeDockerSchema2ManifestList
    MediaTypeDockerSchema1Manifest MediaTypeContainerd1Checkpoint
    MediaTypeContainerd1CheckpointPreDump MediaTypeContainerd1Resource MediaTypeContainerd1RW
    MediaTypeContainerd1CheckpointConfig MediaTypeContainerd1CheckpointOptions
    MediaTypeContainerd1CheckpointRuntimeName MediaTypeContainerd1CheckpointRuntimeOptions
    AnnotationImageName ErrSkipDesc ErrStopHandler Check ChildGCLabels ChildGCLabelsFilterLayers
    Children Config DiffCompression Dispatch GetDiffID IsConfigType IsDockerType IsIndexType
    IsKnownConfig IsLayerType IsManifestType IsNonDistributable Manifest Platforms RootFS Walk
    DeleteOpt SynchronousDelete DeleteOptions Exporter Exporter.Export Handler Handler.Handle
    HandlerFunc HandlerFunc.Handle ChildrenHandler FilterPlatforms Handlers LimitManifests
    SetChildrenLabels SetChildrenMappedLabels Image Image.Config Image.RootFS Image.Size Importer
    Importer.Import Store Store.Get Store.List Store.Create Store.Update Store.Delete
";

#[test]
fn every_name_of_containerd_has_a_row() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/SEEDS.md");
    let page = std::fs::read_to_string(page).unwrap();
    let theirs = page.lines().filter_map(|line| line.strip_prefix("| "));
    let theirs: Vec<&str> = theirs.filter_map(|line| line.split(" | ").next()).collect();
    let names: Vec<&str> = CONTAINERD.split_whitespace().collect();
    assert_eq!(names.len(), 65);
    for name in names {
        let quoted = format!("`{name}`");
        assert!(
            theirs.iter().any(|cell| cell.contains(&quoted)),
            "{name} has no row"
        );
    }
}
