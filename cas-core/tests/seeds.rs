//! Every test that `docs/SEEDS.md` names must exist, and every name of the five pages has a row.
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

/// A page of names, and where `docs/SEEDS.md` has their rows.
struct Page {
    /// The beginning of the headings.
    heading: &'static str,
    /// Number of names on the page: constants, variables, functions, types and methods.
    count: usize,
    /// The names; a method as `Type.Method` unless the page has one type only.
    names: &'static str,
    /// The names that have no row yet.
    missing: &'static str,
}

const PAGES: [Page; 5] = [
    Page {
        heading: "## containerd: the images package",
        count: 65,
        names: CONTAINERD,
        missing: "",
    },
    Page {
        heading: "## An OCI layout engine",
        count: 18,
        names: LAYOUT,
        missing: "",
    },
    Page {
        heading: "## EVE",
        count: 31,
        names: EVE,
        missing: "",
    },
    Page {
        heading: "## rkt",
        count: 45,
        names: RKT,
        missing: "",
    },
    Page {
        heading: "## The SOCI snapshotter",
        count: 67,
        names: SOCI,
        missing: "",
    },
];

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

const LAYOUT: &str = "
    BlobAlgorithm ImageLayoutVersion ErrInvalid ErrNotImplemented ErrClobber ImageLayout Layout
    PutBlob PutReference GetBlob Exist GetReference DeleteBlob DeleteReference ListBlobs
    ListReferences Close GetBlobPath
";

const EVE: &str = "
    ErrImageNotFound CheckAndCorrectBlobHash BlobInfo CAS CheckBlobExists GetBlobInfo ListBlobInfo
    ListBlobsMediaTypes IngestBlob UpdateBlobInfo ReadBlob RemoveBlob Children CreateImage
    GetImageHash GetImageLabels ListImages RemoveImage ReplaceImage CreateSnapshotForImage
    MountSnapshot SnapshotUsage ListSnapshots RemoveSnapshot PrepareContainerRootDir
    UnmountContainerRootDir RemoveContainerRootDir IngestBlobsAndCreateImage Resolver
    CtrNewUserServicesCtx CloseClient
";

const RKT: &str = "
    ErrKeyNotFound ErrDBUpdateNeedsRoot ErrRemoteNotFound RemoveACIInfo RemoveRemote WriteACIInfo
    WriteRemote ACIFetchInfo ACIInfo GetACIInfoWithBlobKey GetACIInfosWithKeyPrefix
    GetACIInfosWithName GetAllACIInfos NewACIInfo ACINotFoundError ACINotFoundError.Error Remote
    GetAllRemotes GetRemote NewRemote Store NewStore Store.Close Store.Dump Store.GetACI
    Store.GetACIInfoWithBlobKey Store.GetAllACIInfos Store.GetAllRemotes Store.GetImageManifest
    Store.GetImageManifestJSON Store.GetRemote Store.HasFullKey Store.HashToKey Store.ReadStream
    Store.RemoveACI Store.ResolveKey Store.ResolveName Store.TmpDir Store.TmpFile
    Store.TmpNamedFile Store.UpdateTreeStoreSize Store.WriteACI Store.WriteRemote
    StoreRemovalError StoreRemovalError.Error
";

const SOCI: &str = "
    LayerUnpackJobInProgress LayerUnpackJobClaimed LayerUnpackJobDone LayerUnpackJobFailed
    LayerUnpackJobCancelled ErrParallelPullIsDisabled ErrImageUnpackJobNotFound
    ErrImageUnpackJobHasNoLayers ErrImageUnpackJobExpired ErrLayerHasNoJobs
    ErrNoClaimableLayerJobs ErrLayerJobNotFound ErrLayerJobCannotBeCleaned
    ErrLayerIngestDoesNotExist ErrLayerUnpackDestinationHasContent ErrAllLazyPullModesDisabled
    ErrNoReferrers AsyncTeeReader FetchHermesArtifacts FetchSociArtifacts GetContentWithRange
    NewFilesystem NewParallelLayerUnpacker SelectFirstPolicy Archive Archive.Apply NewLayerArchive
    Fetcher Fetcher.Fetch Fetcher.Store IndexSelectionPolicy Inner LayerUnpackDiskStorage
    LayerUnpackDiskStorage.Create LayerUnpackDiskStorage.Delete LayerUnpackDiskStorage.GetJobPath
    LayerUnpackDiskStorage.Keys LayerUnpackJobStorage LayerUnpackJobStorage.Create
    LayerUnpackJobStorage.GetJobPath LayerUnpackJobStorage.Keys LayerUnpackJobStorage.Delete
    LayerUnpackResourceController LayerUnpackResourceController.AcquireUnpackLease
    LayerUnpackResourceController.GetUnpackIngestReader
    LayerUnpackResourceController.VerifyUnpackDestinationIsReady OCIArtifactClient
    NewOCIArtifactClient OCIArtifactClient.AllReferrers OCIArtifactClient.SelectReferrer Option
    WithGetSources WithMaxConcurrency WithMetadataStore WithOverlayOpaqueType WithPullModes
    WithResolveHandler ReferrersCaller ReferrersCaller.Referrers ReferrersClient
    ReferrersClient.SelectReferrer SemaphoreWithNil NewSemaphoreWithNil SemaphoreWithNil.Acquire
    SemaphoreWithNil.Release Unpacker Unpacker.Unpack
";

/// Returns the names in the first columns of the rows below the headings of a page.
fn rows(document: &str, heading: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut inside = false;
    for line in document.lines() {
        if line.starts_with("## ") {
            inside = line.starts_with(heading);
        } else if let Some(row) = line.strip_prefix("| ").filter(|_| inside) {
            let cell = row.split(" | ").next().unwrap_or_default();
            names.extend(cell.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    names
}

#[test]
fn every_name_of_the_five_pages_has_a_row() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/SEEDS.md");
    let document = std::fs::read_to_string(document).unwrap();
    for page in PAGES {
        let names: Vec<&str> = page.names.split_whitespace().collect();
        assert_eq!(names.len(), page.count, "{}", page.heading);
        let rows = rows(&document, page.heading);
        let has_row = |name: &&str| rows.iter().any(|row| row == *name);
        let found: Vec<&str> = names.iter().copied().filter(has_row).collect();
        let missing: Vec<&str> = page.missing.split_whitespace().collect();
        let expected: Vec<&str> = names
            .iter()
            .copied()
            .filter(|name| !missing.contains(name))
            .collect();
        assert_eq!(found, expected, "names with a row: {}", page.heading);
    }
}
