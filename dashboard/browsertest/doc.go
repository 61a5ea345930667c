// Package browsertest tests the page of package dashboard in headless Chromium. It
// holds tests only, in a module of its own, as they drive the browser with chromedp.
//
//	go test .                                            # skipped where no Chromium is installed
//	CI_REQUIRE_BROWSER=1 go test .                       # fails there
//	go test -run Axe -axe axe.min.js .                   # with the file that npm pack axe-core gets
//	go test -trimpath -run Screenshots -screenshots ../../docs/images .
package browsertest
