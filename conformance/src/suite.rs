//! The macro `laws!`, which lists the laws of a group, and exports a macro that tests whether a
//! store keeps these laws.

/// Lists the laws of a group. The macro defines the constant `NAMES`, the function `all`, which
/// returns the laws, and an exported macro that makes a `#[test]` of each law.
///
/// `THEME() [law: "why" ["source"], ...]` lists functions of the module THEME. `why` is what goes
/// wrong for a user without the law. `source` is where the rule comes from. `THEME(needs
/// Capability)` lists laws about the promise of that capability, `THEME(racy)` lists laws whose
/// outcome depends on timing, and `THEME(needs Capability, racy)` lists laws to which both apply.
macro_rules! laws {
    (
        $d:tt $(#[$doc:meta])* $macro:ident!, $tests:ident!, $group:ident: $store:ty;
        $($theme:ident $when:tt [$($law:ident: $why:literal [$source:literal]),* $(,)?])*
    ) => {
        /// The names of the laws of the group. [`Gaps`](crate::Gaps) refer to laws by these names.
        pub const NAMES: &[&str] = &[$($(stringify!($law),)*)*];

        const LAWS: &[$crate::Law<$store>] = &[$($($crate::Law {
            group: stringify!($group),
            name: stringify!($law),
            why: $why,
            source: $source,
            needs: laws!(@needs $when),
            racy: laws!(@racy $when),
            run: |subject| Box::pin($theme::$law(subject)),
        },)*)*];

        /// Returns all laws of the group, in the order of [`NAMES`].
        pub fn all() -> &'static [$crate::Law<$store>] {
            LAWS
        }

        $(#[$doc])*
        #[macro_export]
        macro_rules! $macro {
            ($d name:ident, $d open:expr $d(,)?) => {
                $d crate::$macro!($d name, $d open, &[]);
            };
            ($d name:ident, $d open:expr, $d gaps:expr $d(,)?) => {
                mod $d name {
                    #[allow(unused_imports)]
                    use super::*;

                    // The names of the caller are visible here, so the names of this macro must
                    // differ from them.
                    const __GAPS: $d crate::Gaps = $d gaps;
                    const _: () = $d crate::gap::check(__GAPS);

                    fn __open(dir: ::std::path::PathBuf) -> $d crate::Opening<$store> {
                        $d crate::opening(dir, $d open)
                    }

                    $d crate::$tests!();
                }
            };
        }

        #[doc(hidden)]
        #[macro_export]
        macro_rules! $tests {
            () => {$($(
                #[test]
                fn $law() {
                    $d crate::test(
                        $d crate::laws::$group::all(),
                        stringify!($law),
                        __open,
                        __GAPS,
                        concat!(module_path!(), "::", stringify!($law)),
                    );
                }
            )*)*};
        }
    };
    // Anything else in the parentheses, such as a misspelt word, does not compile.
    (@needs ($(racy)?)) => { None };
    (@needs (needs $need:ident $(, racy)?)) => { Some($crate::cas_core::Capability::$need) };
    (@racy ($(needs $need:ident)?)) => { false };
    (@racy ($(needs $need:ident,)? racy)) => { true };
}
