use super::*;

fn manifest(more: &str) -> String {
    format!(r#"{{"acKind":"ImageManifest","acVersion":"0.8.11","name":"example.com/app"{more}}}"#)
}

#[test]
fn the_manifest_of_the_specification_is_parsed() {
    let text = manifest(
        r#","labels":[{"name":"version","value":"1.0.0"},{"name":"arch","value":"aarch64"},
            {"name":"os","value":"linux"}],
        "app":{"exec":["/usr/bin/reduce-worker","--quiet"],"user":"100","group":"300",
            "supplementaryGIDs":[400,500],
            "eventHandlers":[{"name":"pre-start","exec":["/bin/mkdir"]}],
            "workingDirectory":"/opt/work",
            "environment":[{"name":"REDUCE_WORKER_DEBUG","value":"true"}],
            "isolators":[{"name":"resource/cpu","value":{"request":"250"}}],
            "mountPoints":[{"name":"work","path":"/var/lib/work","readOnly":true}],
            "ports":[{"name":"health","protocol":"tcp","port":4000,"socketActivated":true},
                {"name":"many","protocol":"udp","port":65000,"count":536}]},
        "dependencies":[{"imageName":"example.com/base",
            "imageID":"sha512-aaaaaaaa","labels":[{"name":"os","value":"linux"}],"size":22017258}],
        "pathWhitelist":["/etc/ca/example.com/crt","/home/worker/"],
        "annotations":[{"name":"authors","value":"Carly Container"}]"#,
    );
    let parsed = ImageManifest::parse(text.as_bytes()).unwrap();
    assert_eq!(parsed.name, "example.com/app");
    assert_eq!(parsed.label("version"), Some("1.0.0"));
    assert_eq!(parsed.label("none"), None);
    assert!(parsed.has_labels(&[Label::new("os", "linux")]));
    assert!(!parsed.has_labels(&[Label::new("os", "darwin")]));
    let platform = parsed.platform();
    assert_eq!((&*platform.os, &*platform.architecture), ("linux", "arm64"));
    let app = parsed.app.unwrap();
    assert_eq!(app.exec, ["/usr/bin/reduce-worker", "--quiet"]);
    assert_eq!(app.supplementary_gids, [400, 500]);
    assert!(app.mount_points[0].read_only);
    assert_eq!((app.ports[0].count, app.ports[1].count), (1, 536));
    assert_eq!(parsed.dependencies[0].image_id, "sha512-aaaaaaaa");
    assert_eq!(parsed.path_whitelist.len(), 2);
    assert_eq!(parsed.annotations[0].value, "Carly Container");
}

#[test]
fn null_of_go_is_empty() {
    let text = manifest(
        r#","labels":null,"app":null,"dependencies":null,"pathWhitelist":null,"annotations":null"#,
    );
    let parsed = ImageManifest::parse(text.as_bytes()).unwrap();
    assert_eq!((parsed.labels.len(), parsed.app), (0, None));
}

#[test]
fn what_is_wrong_is_refused_with_its_reason() {
    let label = |name: &str| format!(r#"{{"name":"{name}","value":"x"}}"#);
    let app = |more: &str| manifest(&format!(r#","app":{{"user":"0","group":"0"{more}}}"#));
    let many = vec![label("a"); limit::ACI_LIST + 1].join(",");
    let words = vec![r#""a""#; limit::ACI_LIST + 1].join(",");
    let long = "v".repeat(limit::LABEL + 1);
    for (text, reason) in [
        ("[]".to_owned(), "does not parse"),
        ("{".to_owned(), "does not parse"),
        ("[".repeat(65), "nested too deep"),
        (
            manifest("").replace("ImageManifest", "PodManifest"),
            "PodManifest",
        ),
        (manifest("").replace("0.8.11", "0.8"), "acVersion"),
        (manifest("").replace("0.8.11", "0.8.+1"), "acVersion"),
        (
            manifest("").replace("example.com/app", "Example"),
            "invalid name",
        ),
        (
            manifest(&format!(r#","labels":[{}]"#, label("name"))),
            "\"name\"",
        ),
        (
            manifest(&format!(r#","labels":[{0},{0}]"#, label("a"))),
            "twice",
        ),
        (
            manifest(&format!(r#","labels":[{}]"#, label("A"))),
            "invalid name",
        ),
        (
            manifest(&format!(r#","labels":[{{"name":"a","value":"{long}"}}]"#)),
            "at most 4096",
        ),
        (
            manifest(&format!(r#","annotations":[{many}]"#)),
            "at most 4096",
        ),
        (
            manifest(r#","dependencies":[{"imageName":"A"}]"#),
            "invalid name",
        ),
        (
            manifest(r#","dependencies":[{"imageName":"a","imageID":"sha512-x"}]"#),
            "hexadecimal digits as an imageID, found \"sha512-x\"",
        ),
        (
            manifest(r#","dependencies":[{"imageName":"example.com/app"}]"#),
            "depends on itself; build the ACI again",
        ),
        (manifest(r#","pathWhitelist":["etc"]"#), "absolute path"),
        (manifest(r#","pathWhitelist":["/a/../b"]"#), "absolute path"),
        (manifest(r#","app":{"user":"0"}"#), "group"),
        (app("").replace("\"user\":\"0\"", "\"user\":\"\""), "user"),
        (
            app(&format!(
                r#","eventHandlers":[{{"name":"pre-start","exec":[{words}]}}]"#
            )),
            "at most 4096",
        ),
        (app(r#","workingDirectory":"x""#), "absolute path"),
        (
            app(r#","environment":[{"name":"A=B","value":""}]"#),
            "variable",
        ),
        (
            app(r#","mountPoints":[{"name":"a.b","path":"/"}]"#),
            "invalid name",
        ),
        (
            app(r#","ports":[{"name":"a","protocol":"tcp","port":0}]"#),
            "found 0",
        ),
        (
            app(r#","ports":[{"name":"a","protocol":"tcp","port":65535,"count":2}]"#),
            "65536",
        ),
        (
            app(r#","ports":[{"name":"a","protocol":"sctp","port":1}]"#),
            "sctp",
        ),
    ] {
        let error = ImageManifest::parse(text.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        let said = error.to_string();
        assert!(said.contains(reason), "{said} does not contain {reason}");
        assert!(said.len() < 500, "{said}");
    }
}

#[test]
fn a_manifest_may_be_as_large_as_is_allowed_and_no_larger() {
    let padded = |size: u64| {
        let mut text = manifest("").into_bytes();
        text.resize(size as usize, b' ');
        ImageManifest::parse(&text)
    };
    padded(limit::ACI_MANIFEST).unwrap();
    let error = padded(limit::ACI_MANIFEST + 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("at most 1048576"), "{error}");
}

#[test]
fn each_list_may_be_as_long_as_is_allowed_and_no_longer() {
    let label = |n: usize| format!(r#"{{"name":"n{n}","value":"v"}}"#);
    let app = |list: &str| format!(r#""app":{{"user":"0","group":"0",{list}}}"#);
    let word = |_| r#""/w""#.to_owned();
    type Item<'a> = &'a dyn Fn(usize) -> String;
    // The name of the list in messages, one of its entries, and the list with its place.
    for (what, item, list) in [
        ("labels", &label as Item<'_>, r#""labels":[]"#.to_owned()),
        ("annotations", &label, r#""annotations":[]"#.to_owned()),
        (
            "dependencies",
            &|n| format!(r#"{{"imageName":"n{n}"}}"#),
            r#""dependencies":[]"#.to_owned(),
        ),
        (
            "paths in pathWhitelist",
            &word,
            r#""pathWhitelist":[]"#.to_owned(),
        ),
        ("arguments", &word, app(r#""exec":[]"#)),
        ("variables", &label, app(r#""environment":[]"#)),
        (
            "mount points",
            &|n| format!(r#"{{"name":"n{n}","path":"/"}}"#),
            app(r#""mountPoints":[]"#),
        ),
        (
            "ports",
            &|n| format!(r#"{{"name":"n{n}","protocol":"tcp","port":1}}"#),
            app(r#""ports":[]"#),
        ),
        (
            "event handlers",
            &|_| r#"{"name":"pre-start"}"#.to_owned(),
            app(r#""eventHandlers":[]"#),
        ),
        (
            "arguments of an event handler",
            &word,
            app(r#""eventHandlers":[{"name":"pre-start","exec":[]}]"#),
        ),
        (
            "groups",
            &|n| n.to_string(),
            app(r#""supplementaryGIDs":[]"#),
        ),
    ] {
        let parse = |count: usize| {
            let items: Vec<String> = (0..count).map(item).collect();
            let list = list.replace("[]", &format!("[{}]", items.join(",")));
            ImageManifest::parse(manifest(&format!(",{list}")).as_bytes())
        };
        if let Err(error) = parse(limit::ACI_LIST) {
            panic!("{what}: {error}");
        }
        let error = parse(limit::ACI_LIST + 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        let said = format!("found 4097 {what}, at most 4096 are allowed");
        assert!(error.to_string().contains(&said), "{error}");
    }
}

#[test]
fn another_version_of_the_same_name_is_not_the_image_itself() {
    let labels = r#"[{"name":"version","value":"1"}]"#;
    let with = |key: &str| {
        let dependency = format!(r#"{{"imageName":"example.com/app","labels":{labels}{key}}}"#);
        let own = r#"[{"name":"version","value":"2"}]"#;
        manifest(&format!(r#","labels":{own},"dependencies":[{dependency}]"#))
    };
    ImageManifest::parse(with("").as_bytes()).unwrap();
    let same = with("").replace("\"value\":\"2\"", "\"value\":\"1\"");
    assert!(ImageManifest::parse(same.as_bytes()).is_err());
}
