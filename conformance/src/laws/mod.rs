//! The laws, in groups: one a trait.

/// Lists the laws of one group and makes from the list: a function that returns it, `NAMES`, and
/// an exported macro that turns each law into a `#[test]`.
///
/// `THEME() [law, ...]` names functions of the module THEME. `THEME(needs Capability)` is for
/// stores that promise it, `THEME(racy)` for laws whose outcome depends on timing, and
/// `THEME(needs Capability, racy)` for both.
macro_rules! laws {
    (
        $d:tt $(#[$doc:meta])* $macro:ident!, $tests:ident!, $group:ident: $store:ty;
        $($theme:ident $when:tt [$($law:ident),* $(,)?])*
    ) => {
        /// The names, for checking gaps.
        pub const NAMES: &[&str] = &[$($(stringify!($law),)*)*];

        const LAWS: &[$crate::Law<$store>] = &[$($($crate::Law {
            name: stringify!($law),
            needs: laws!(@needs $when),
            racy: laws!(@racy $when),
            run: |subject| Box::pin($theme::$law(subject)),
        },)*)*];

        /// All of them, in the order in which they are read best.
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

                    const GAPS: $d crate::Gaps = $d gaps;
                    const _: () = $d crate::gap::check(GAPS);

                    fn open(dir: ::std::path::PathBuf) -> $d crate::Opening<$store> {
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
                        open,
                        GAPS,
                        concat!(module_path!(), "::", stringify!($law)),
                    );
                }
            )*)*};
        }
    };
    (@needs (needs $need:ident $($rest:tt)*)) => { Some($crate::cas_core::Capability::$need) };
    (@needs $other:tt) => { None };
    (@racy ($(needs $need:ident,)? racy)) => { true };
    (@racy $other:tt) => { false };
}

pub mod collect;
pub mod content;
pub mod images;
pub mod records;
pub mod snapshots;
