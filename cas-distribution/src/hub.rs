//! The hosts of Docker Hub, and the keys under which its logins are saved. Names of its images
//! contain `docker.io`, but its registry is at `registry-1.docker.io`.

/// The hosts that mean Docker Hub.
pub(crate) const HOSTS: [&str; 3] = ["docker.io", "index.docker.io", REGISTRY];
/// The host of Docker Hub's registry.
const REGISTRY: &str = "registry-1.docker.io";
/// The host of Docker Hub's token service.
pub(crate) const TOKENS: &str = "auth.docker.io";
/// The keys of a login for Docker Hub, best first: docker's and podman's.
pub(crate) const KEYS: [&str; 2] = ["https://index.docker.io/v1/", "docker.io"];

/// Returns whether a host means Docker Hub: one of [`HOSTS`], in upper or lower case, without a
/// port or at the port 443.
pub(crate) fn is_hub(host: &str) -> bool {
    let host = host.strip_suffix(":443").unwrap_or(host);
    HOSTS.iter().any(|known| known.eq_ignore_ascii_case(host))
}

/// Returns the host to connect to for a registry that names of images call `host`.
pub(crate) fn registry(host: &str) -> &str {
    if is_hub(host) { REGISTRY } else { host }
}
