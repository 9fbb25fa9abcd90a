package doctor

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"registry-module/doctor/report"
	"registry-module/upstream"
)

// imageName writes the image as people do.
func (e *examination) imageName() string {
	if strings.Contains(e.ref, ":") {
		return e.repo + "@" + e.ref
	}
	return e.repo + ":" + e.ref
}

// headManifest asks for the manifest of an image as the program does: by HEAD, which
// counts against no limit at Docker Hub.
func (e *examination) headManifest(ctx context.Context) report.Finding {
	if e.repo == "" {
		return report.Skip("not asked for: say for which image (--image NAME:TAG)")
	}
	desc, err := e.remote.Resolve(ctx, e.repo, e.ref, "")
	x := e.asked().last
	e.manifest = x
	if err == nil && e.asked().token.Method == http.MethodPost { // in a log-in for images only
		login, loginErr := e.remote.Login(ctx, e.repo) // is done
		if e.challenge = login.Challenge; loginErr == nil && login.Replaced && e.authentication(ctx).Status != report.Failed {
			return e.replaced()
		}
	}
	switch {
	case errors.Is(err, errSpared):
		return report.Skip("not asked for: that needs a token, which is asked for with the identity token")
	case err != nil && e.challenge.Scheme == "":
		if f, found := e.loginForImages(ctx, err); found {
			return f
		}
	case err == nil && (x.Status == http.StatusMethodNotAllowed || x.Status == http.StatusNotImplemented):
		return report.Warn("It works, but tags are fetched to find out whether they have changed.", "the registry does not answer HEAD (%s)", statusText(x.Status))
	case err == nil && desc.Digest == "":
		return report.Passed("%s", e.imageName())
	case err == nil:
		return report.Passed("%s is %s", e.imageName(), desc.Digest)
	}
	return e.noManifest(ctx, x, err)
}

// loginForImages says what is wrong with a log-in that the registry wants for images
// only, where that is why err.
func (e *examination) loginForImages(ctx context.Context, err error) (report.Finding, bool) {
	c, challengeErr := e.remote.Challenge(ctx) // is known
	if challengeErr != nil || c.Scheme == "" {
		return report.Finding{}, false
	}
	e.challenge = c
	x := e.asked().last
	_, noCredentials := errors.AsType[notGiven](err)
	switch f := e.authentication(ctx); {
	case f.Status == report.Failed:
		return f, true
	case noCredentials:
		return e.notGiven(err), true
	case x.Token:
		f, _ := e.noToken(err)
		return f, true
	case x.Status == http.StatusUnauthorized && strings.EqualFold(c.Scheme, "basic"):
		return e.refusedBasic(e.asked().number > 1), true
	}
	return report.Finding{}, false
}

// noManifest says why there is none. x is the last answer.
func (e *examination) noManifest(ctx context.Context, x upstream.Exchange, err error) report.Finding {
	image := e.imageName()
	switch {
	case x.Token:
		f, _ := e.noToken(err)
		return f
	case isTimeout(err), x.Status == 0:
		return e.unanswered(e.r.URL.Host, err)
	case x.Status == http.StatusOK && isPage(x):
		return e.portal("what answers for %s is a web page, not a manifest", image)
	case x.Status == http.StatusTooManyRequests:
		return e.rateLimited(x)
	case isRedirect(x.Status):
		return e.portal("%s is redirected to where no manifest is", image)
	case x.Status == http.StatusNotFound:
		return report.Fail("Check the name and the tag, and give another image by --image NAME:TAG if that is not to be found there.",
			"the registry has no %s%s", image, e.reason(ctx))
	case x.Status == http.StatusUnauthorized, x.Status == http.StatusForbidden:
		advice := "Check the name and the tag (many registries answer so for what does not exist)"
		if e.anonymous() {
			advice += ", and set " + e.passwordSettings() + " if the image is private."
		} else {
			advice += ", and that the credentials (" + e.credentialsSettings() + ") are of a user who may pull it."
		}
		return report.Fail(advice, "the registry does not give us %s (%s)%s", image, statusText(x.Status), e.reason(ctx))
	case x.Status == http.StatusLoopDetected: // as registry-module answers
		return report.Fail("Check "+e.r.Variable("REMOTEURL")+", and those of the registries behind it: none may lead back here.",
			"the registry is part of a loop: registries fetch from each other in a circle%s", e.reason(ctx))
	case x.Status >= 500:
		return report.Fail("Try again later: that is for the registry's operator to mend.", "the registry has a failure of its own (%s)", statusText(x.Status))
	default:
		return report.Fail("Tell the registry's operator.", "the registry's answer for %s is of no use (%s): %s", image, statusText(x.Status), e.secrets.Clean(upstream.Cause(err)))
	}
}

// reason asks once more, for the error that an answer to HEAD cannot have.
func (e *examination) reason(ctx context.Context) string {
	if _, err := e.remote.Manifest(ctx, e.repo, e.ref); err != nil && e.asked().last.Status != 0 {
		if text := e.secrets.Clean(upstream.Cause(err)); text != "" {
			return ": " + text
		}
	}
	return ""
}

// rateLimit shows how many pulls are left, in the headers of Docker Hub.
func (e *examination) rateLimit(context.Context) report.Finding {
	if e.manifest.Status == 0 {
		return report.Skip("not known without an image")
	}
	limit, window, okLimit := readQuota(e.manifest.Header.Get("RateLimit-Limit"))
	left, _, okLeft := readQuota(e.manifest.Header.Get("RateLimit-Remaining"))
	if !okLimit || !okLeft {
		return report.Skip("the registry says nothing about one")
	}
	text := "%d of %d pulls are left"
	args := []any{left, limit}
	if window > 0 {
		text += ", in each %s"
		args = append(args, report.Roughly(window))
	}
	if left*10 >= limit {
		return report.Passed(text, args...)
	}
	advice := "What is stored is served without asking; wait before pulling much that is new."
	if e.anonymous() {
		advice = "Log in to get more: set " + e.passwordSettings() + "."
	}
	return report.Warn(advice, text, args...)
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
