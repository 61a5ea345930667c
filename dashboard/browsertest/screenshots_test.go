package browsertest

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool/dashboard"
)

var (
	screenshots = flag.String("screenshots", "", "directory to write screenshots of a busy pool to")
	watchFor    = flag.Duration("watch", 65*time.Second, "how long the page is open before they are taken")
)

// TestScreenshots takes the pictures of docs/images.
func TestScreenshots(t *testing.T) {
	if *screenshots == "" {
		t.Skip("no -screenshots DIR given")
	}
	d := dashboard.New()
	busy(t, d)
	tb := open(t, d, viewport(1280, 1000))
	tb.live()
	time.Sleep(*watchFor) // the curves have to grow

	tb.do(chromedp.Click(chromedp.CSS(".failures summary")))
	tb.until(`document.querySelector(".failures details pre").textContent.length > 10`)
	for _, device := range []struct {
		name            string
		width, height   int64
		mostHigh, scale float64
	}{{"desktop", 1280, 1000, 1400, 1}, {"phone", 390, 844, 1700, 1.5}} {
		for _, colours := range []string{"light", "dark"} {
			tb.do(viewport(device.width, device.height), scheme(colours))
			tb.live()
			high := min(eval[float64](tb, "scrollTo(0, 0), document.documentElement.scrollHeight"), device.mostHigh)
			tb.do(viewport(device.width, int64(high)))
			tb.live()
			var png []byte
			tb.do(chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
				shot, err := cdp.Call(ctx, target, page.CaptureScreenshot, page.CaptureScreenshotParams{
					Clip: &page.Viewport{Width: float64(device.width), Height: high, Scale: device.scale},
				})
				png = shot.Data
				return err
			}))
			name := filepath.Join(*screenshots, "dashboard-"+device.name+"-"+colours+".png")
			require.NoError(t, os.WriteFile(name, png, 0o644))
			t.Logf("%s: %d bytes", name, len(png))
		}
	}
}
