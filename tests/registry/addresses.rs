//! Registries that refer to addresses that only this machine reaches.

use cas::ErrorKind;
use cas::distribution::{Client, Options};
use cas::transfer::Fetcher;

use super::fake::{Answer, Fake};
use super::sample::Sample;
use super::{pulled, quick};

/// Addresses that no registry may lead to.
const NEVER: [&str; 7] = [
    "169.254.169.254",
    "[::ffff:169.254.169.254]",
    "[64:ff9b::a9fe:a9fe]",
    "[fe80::1]",
    "100.100.100.200",
    "[fd00:ec2::254]",
    "192.0.0.192",
];

#[tokio::test]
async fn redirects_do_not_lead_to_metadata_services() {
    let sample = Sample::new(&[10]);
    for address in NEVER {
        let good = sample.clone();
        let registry = Fake::start(move |request| match request.path.contains("/blobs/") {
            true => Answer::new(307).with("Location", &format!("http://{address}/secret")),
            false => good.answer(request),
        });
        let error = pulled(&registry, &sample, quick()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{address}: {error}");
        assert!(!error.to_string().contains("secret"), "{error}");
        // At most the configuration and the layer are requested.
        assert!(registry.count("GET", "/blobs/") <= 2, "{address}");
    }
}

#[tokio::test]
async fn token_services_are_not_at_metadata_services() {
    let sample = Sample::new(&[10]);
    for address in NEVER {
        let registry = Fake::start(move |_| {
            let realm = format!("Bearer realm=\"http://{address}/token\",service=\"x\"");
            Answer::new(401).with("WWW-Authenticate", &realm)
        });
        let error = pulled(&registry, &sample, quick()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{address}: {error}");
    }
}

/// The option allows private addresses, but not the addresses of metadata services.
#[tokio::test]
async fn no_option_leads_to_metadata_services() {
    for address in NEVER {
        let registry = Fake::start(move |_| {
            Answer::new(307).with("Location", &format!("http://{address}/secret"))
        });
        let options = Options {
            private_addresses: true,
            timeouts: quick(),
            ..Options::default()
        };
        let reference = registry.image().parse().unwrap();
        let client = Client::connect(&reference, options).await.unwrap();
        let error = client.resolve().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{address}: {error}");
    }
}

/// The name `localhost` of a registry is resolved before its address is judged.
#[tokio::test]
async fn a_registry_on_this_machine_may_refer_to_this_machine() {
    let sample = Sample::new(&[10]);
    let good = sample.clone();
    let storage = Fake::start(move |request| good.answer(request));
    let place = storage.host.replace("127.0.0.1", "localhost");
    let good = sample.clone();
    let mut registry = Fake::start(move |request| match request.path.contains("/blobs/") {
        true => Answer::new(307).with("Location", &format!("http://{place}{}", request.path)),
        false => good.answer(request),
    });
    pulled(&registry, &sample, quick()).await.unwrap();
    registry.host = registry.host.replace("127.0.0.1", "localhost");
    pulled(&registry, &sample, quick()).await.unwrap();
    assert_eq!(storage.count("GET", "/blobs/"), 4);
}
