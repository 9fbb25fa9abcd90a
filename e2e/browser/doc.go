// Package browser runs a real Chromium, headless, for tests of pages.
//
// It promises that one process serves all tabs, that each [Tab] has storage of its own and
// remembers all that it has asked for and complained about, and that nothing is left when
// the context of [Start] has ended. It trusts its caller to end that. It imports nothing of
// this module, and not testing: everything returns an error.
package browser
