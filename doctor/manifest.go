package doctor

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"registry-module/upstream"
)

// acceptManifests are the kinds of manifest that clients ask for most.
const acceptManifests = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, " +
	"application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, */*;q=0.1"

// imageName writes the image as people do.
func (e *examination) imageName() string {
	if strings.Contains(e.ref, ":") {
		return e.repo + "@" + e.ref
	}
	return e.repo + ":" + e.ref
}

// headManifest asks for the manifest of an image, by HEAD, which counts against no
// limit at Docker Hub.
func (e *examination) headManifest(ctx context.Context) Finding {
	if e.repo == "" {
		return skipped("not asked for: say for which image (--image NAME:TAG)")
	}
	a, err := e.askManifest(ctx, http.MethodHead)
	if err == nil && a.status == http.StatusUnauthorized && e.challenge.Scheme == "" && sameOrigin(a.url, e.r.URL) {
		if c := readChallenge(a.header); c != nil {
			if f := e.logInFor(ctx, c); f.Status == Failed {
				return f
			}
			a, err = e.askManifest(ctx, http.MethodHead)
		}
	}
	if err != nil {
		return e.unanswered(e.r.URL.Host, err)
	}
	e.manifest = a
	return timed(e.readManifest(ctx, a), a.took)
}

// logInFor goes the steps of a log-in that is wanted for the image only.
func (e *examination) logInFor(ctx context.Context, c *transport.Challenge) Finding {
	e.challenge, e.login = c, nil
	f := e.authentication(ctx)
	if f.Status != Failed && e.realm != nil {
		f = e.token(ctx)
	}
	if f.Status != Failed {
		f = e.credentials(ctx)
	}
	return f
}

func (e *examination) askManifest(ctx context.Context, method string) (*answer, error) {
	header := http.Header{"Accept": {acceptManifests}}
	if e.header != "" {
		header.Set("Authorization", e.header)
	}
	u := &url.URL{Scheme: e.r.URL.Scheme, Host: e.r.URL.Host, Path: "/v2/" + e.repo + "/manifests/" + e.ref}
	a, err := e.ask(ctx, verified, method, u, header)
	if err == nil && a.isRedirect() {
		return e.follow(ctx, method, a, header)
	}
	return a, err
}

func (e *examination) readManifest(ctx context.Context, a *answer) Finding {
	image := e.imageName()
	switch {
	case a.status == http.StatusOK && a.isPage():
		return e.portal("what answers for %s is a web page, not a manifest", image)
	case a.status == http.StatusOK:
		text := image
		if digest := a.header.Get("Docker-Content-Digest"); digest != "" {
			text += " is " + e.secrets.clean(digest)
		}
		return ok("%s", text)
	case a.status == http.StatusMethodNotAllowed, a.status == http.StatusNotImplemented:
		return warning("It works, but tags are fetched to find out whether they have changed.", "the registry does not answer HEAD (%s)", statusText(a.status))
	case a.status == http.StatusTooManyRequests:
		return e.rateLimited(a)
	case a.isRedirect():
		return e.portal("%s is redirected to where no manifest is", image)
	case a.status == http.StatusNotFound:
		return failed("Check the name and the tag, and give another image by --image NAME:TAG if that is not to be found there.",
			"the registry has no %s%s", image, e.reason(ctx))
	case a.status == http.StatusUnauthorized, a.status == http.StatusForbidden:
		advice := "Check the name and the tag (many registries answer so for what does not exist)"
		if e.r.anonymous() {
			advice += ", and set " + e.passwordSettings() + " if the image is private."
		} else {
			advice += ", and that the user of " + e.r.Variable("USERNAME") + " may pull it."
		}
		return failed(advice, "the registry does not give us %s (%s)%s", image, statusText(a.status), e.reason(ctx))
	case a.status == http.StatusLoopDetected: // as registry-module answers
		return failed("Check "+e.r.Variable("REMOTEURL")+", and those of the registries behind it: none may lead back here.",
			"the registry is part of a loop: registries fetch from each other in a circle%s", e.reason(ctx))
	case a.status >= 500:
		return failed("Try again later: that is for the registry's operator to mend.", "the registry has a failure of its own (%s)", statusText(a.status))
	default:
		return failed("Tell the registry's operator.", "the registry's answer for %s is of no use (%s)", image, statusText(a.status))
	}
}

// reason asks once more, for the error that an answer to HEAD cannot have.
func (e *examination) reason(ctx context.Context) string {
	a, err := e.askManifest(ctx, http.MethodGet)
	if err != nil || !sameOrigin(a.url, e.r.URL) {
		return ""
	}
	var body struct { // OCI distribution specification, "Error Codes"
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(a.body, &body) != nil || len(body.Errors) == 0 {
		return ""
	}
	return ": " + e.secrets.clean(body.Errors[0].Code+", "+body.Errors[0].Message)
}

// rateLimit shows how many pulls are left, in the headers of Docker Hub.
func (e *examination) rateLimit(context.Context) Finding {
	if e.manifest == nil {
		return skipped("not known without an image")
	}
	limit, window, okLimit := readQuota(e.manifest.header.Get("RateLimit-Limit"))
	left, _, okLeft := readQuota(e.manifest.header.Get("RateLimit-Remaining"))
	if !okLimit || !okLeft {
		return skipped("the registry says nothing about one")
	}
	text := "%d of %d pulls are left"
	args := []any{left, limit}
	if window > 0 {
		text += ", in each %s"
		args = append(args, roughly(window))
	}
	if left*10 >= limit {
		return ok(text, args...)
	}
	advice := "What is stored is served without asking; wait before pulling much that is new."
	if e.r.anonymous() {
		advice = "Log in to get more: set " + e.passwordSettings() + "."
	}
	return warning(advice, text, args...)
}

// readQuota reads "100;w=21600": a number, and the seconds that it is for.
func readQuota(text string) (n int64, window time.Duration, ok bool) {
	number, rest, _ := strings.Cut(text, ";")
	n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 32)
	if err != nil || n < 0 {
		return 0, 0, false
	}
	if seconds, found := strings.CutPrefix(strings.TrimSpace(rest), "w="); found {
		if s, err := strconv.ParseInt(seconds, 10, 32); err == nil && s > 0 {
			window = time.Duration(s) * time.Second
		}
	}
	return n, window, true
}

// program does what the program will do, by what it will do it with.
func (e *examination) program(ctx context.Context) Finding {
	if e.repo == "" {
		return skipped("not tried: say for which image (--image NAME:TAG)")
	}
	remote, err := upstream.New(e.upstreamOptions())
	if err == nil {
		defer func() { _ = remote.Close() }() // it closes idle connections
		_, err = remote.Resolve(ctx, e.repo, e.ref)
	}
	if err != nil {
		return failed("Each step by itself has worked, so this ought to: report it, with this output.",
			"registry-module itself cannot resolve %s: %s", e.imageName(), e.secrets.clean(err.Error()))
	}
	return ok("registry-module itself resolves %s", e.imageName())
}
