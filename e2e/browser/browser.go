package browser

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// Browser is a browser that runs.
type Browser struct{ ctx context.Context }

// Start starts the program at path with a profile in dir. It ends with stop, or with ctx.
func Start(ctx context.Context, path, dir string) (b *Browser, stop func(), err error) {
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path),
		chromedp.NoSandbox, // root cannot have one
		chromedp.UserDataDir(dir),
		chromedp.WSURLReadTimeout(time.Minute),
		// Nothing is asked of anybody but the page's own server.
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-domain-reliability", true),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
	)
	allocator, stopAllocator := chromedp.NewExecAllocator(ctx, options...)
	tab, stopTab := chromedp.NewContext(allocator)
	stop = func() { stopTab(); stopAllocator() }
	if err := chromedp.Do(tab); err != nil {
		stop()
		return nil, nil, fmt.Errorf("starting %s: %w", path, err)
	}
	return &Browser{tab}, stop, nil
}

// Tab is a tab with cookies and storage of its own.
type Tab struct {
	ctx context.Context

	mu         sync.Mutex
	requests   []string
	complaints []string
}

// patience is how long a tab waits for anything.
const patience = 30 * time.Second

// Tab opens a tab, which is closed with stop.
func (b *Browser) Tab() (t *Tab, stop func(), err error) {
	ctx, stop := chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext())
	t = &Tab{ctx: ctx}
	err = chromedp.Listen(ctx, t.heed)
	if err == nil {
		_, err = chromedp.Call(ctx, network.Enable, network.EnableParams{})
	}
	if err != nil {
		stop()
		return nil, nil, fmt.Errorf("opening a tab: %w", err)
	}
	return t, stop, nil
}

func (t *Tab) heed(event any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		t.requests = append(t.requests, e.Request.URL)
	case *runtime.EventExceptionThrown:
		t.complaints = append(t.complaints, fmt.Sprintf("exception: %v", e.ExceptionDetails))
	case *runtime.EventConsoleAPICalled:
		t.complaints = append(t.complaints, fmt.Sprintf("console.%s at %v", e.Type, e.StackTrace))
	case *cdplog.EventEntryAdded:
		t.complaints = append(t.complaints, fmt.Sprintf("%s: %s %s", e.Entry.Level, e.Entry.Text, e.Entry.URL))
	}
}

// Requests returns the addresses of all that was asked for since the last call.
func (t *Tab) Requests() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.requests
	t.requests = nil
	return all
}

// Complaints returns what the console shows since the last call: exceptions, errors,
// violations of the Content-Security-Policy.
func (t *Tab) Complaints() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.complaints
	t.complaints = nil
	return all
}

// do runs steps, each for some time at most.
func (t *Tab) do(what string, steps ...chromedp.Action[chromedp.Void]) error {
	ctx, cancel := context.WithTimeout(t.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// Open loads a page.
func (t *Tab) Open(address string) error { return t.do("opening "+address, chromedp.Navigate(address)) }

// Size sets the size of the viewport; phone has it behave as one.
func (t *Tab) Size(width, height int64, phone bool) error {
	var options []chromedp.EmulateViewportOption
	if phone {
		options = append(options, chromedp.EmulateMobile, chromedp.EmulateTouch)
	}
	return t.do("setting the size", chromedp.EmulateViewport(width, height, options...))
}

// Dark chooses what the user prefers: the dark theme, or the light one.
func (t *Tab) Dark(dark bool) error {
	scheme := map[bool]string{false: "light", true: "dark"}[dark]
	_, err := chromedp.Call(t.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}},
	})
	return err
}

// NoScript switches JavaScript off for pages that are opened from now on.
func (t *Tab) NoScript() error {
	_, err := chromedp.Call(t.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	return err
}

// Keys types text, in which "\t" and "\r" are the keys Tab and Enter.
func (t *Tab) Keys(text string) error { return t.do("typing", chromedp.KeyEvent(text)) }

// BackTab is Tab with Shift.
func (t *Tab) BackTab() error {
	return t.do("typing", chromedp.KeyEvent("\t", chromedp.KeyModifiers(chromedp.ModifierShift)))
}

// Click clicks the middle of the first element that the CSS selector finds.
func (t *Tab) Click(selector string) error {
	return t.do("clicking "+selector, chromedp.Click(chromedp.CSS(selector)))
}

// Screenshot is a PNG of the viewport.
func (t *Tab) Screenshot() ([]byte, error) {
	ctx, cancel := context.WithTimeout(t.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, chromedp.CaptureScreenshot())
}

// Eval returns what an expression of JavaScript is, or the promise that it is.
func Eval[T any](t *Tab, expression string) (T, error) {
	ctx, cancel := context.WithTimeout(t.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		return v, fmt.Errorf("evaluating %.300s: %w", expression, err)
	}
	return v, nil
}

// Until waits until an expression of JavaScript is true.
func (t *Tab) Until(expression string) error {
	ctx, cancel := context.WithTimeout(t.ctx, patience)
	defer cancel()
	for {
		ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("Boolean("+expression+")"))
		if ok {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("waiting for %.300s: it was not so for %v (%v)", expression, patience, err)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}
