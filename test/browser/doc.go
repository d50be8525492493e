// Package browser tries web pages in a headless Chromium against real hosts, inside the test's process: [Start] starts a browser,
// [Browser.Open] opens pages in it, [Serve] runs a host.
//
// It must never reach anything but this machine, and it must never be imported by anything but tests.
package browser
