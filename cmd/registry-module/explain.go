package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"registry-module/cache"
	"registry-module/config"
)

func explainCommand() *cobra.Command {
	var flags imageFlags
	cmd := &cobra.Command{
		Use:   "explain IMAGE",
		Short: "Say what a pull would be answered now, and why",
		Long: `Say what a client would be answered who pulls an image now, and why: which remote its
name means, whether it comes from the store, has to be confirmed or fetched first, or
cannot be had, and how much would come over the link. Nobody is asked for that, and
nothing is changed. Whether the client may pull it is not looked at.

IMAGE is written as clients do: [HOST/]NAME[:TAG|@DIGEST], behind the address of this
server or without it. Without a tag it is latest.

Answers that were given say the same of themselves, in the header Cache-Status.`,
		Example: `  registry-module explain team/app:1
  registry-module explain localhost:8000/docker.io/library/alpine
  registry-module explain quay.io/team/app:1 -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := flags.isJSON()
			if err != nil {
				return err
			}
			return flags.open(cmd, func(i openedImages) error {
				e, err := i.Explain(cmd.Context(), args[0])
				if err != nil {
					return asUsage(err)
				}
				if asJSON {
					return writeIndented(cmd.OutOrStdout(), e)
				}
				if err := printExplanation(cmd.OutOrStdout(), e, time.Now()); err != nil || !i.direct {
					return err
				}
				_, err = fmt.Fprintln(cmd.ErrOrStderr(), "No server runs: whether remotes can be reached is not known.")
				return err
			})
		},
	}
	flags.add(cmd, "text")
	return cmd
}

// explanation is what a pull of an image would meet now.
type explanation struct {
	// Name is as clients call the repository, Reference a tag or a digest.
	Name      string `json:"name"`
	Reference string `json:"reference"`
	cache.Explanation
	// Refused is why the configuration rules it out; nothing else is looked at then.
	Refused string `json:"refused,omitempty"`
}

// Explain implements imageControl.
func (n *namedImages) Explain(ctx context.Context, image string) (explanation, error) {
	repository, tag, dgst := config.CutReference(image)
	e := explanation{Reference: "latest"}
	switch {
	case dgst != "":
		e.Reference = dgst
	case tag != "":
		e.Reference = tag
	}
	places, name, err := n.names.routed(repository)
	e.Name = name
	if !askedName.MatchString(name) {
		return e, &saidError{errBadPattern, fmt.Sprintf("%q is not the name of an image: write [HOST/]NAME:TAG or [HOST/]NAME@DIGEST", image)}
	}
	if err != nil {
		e.Verdict, e.Refused = cache.SaidAbsent, err.Error()
		return e, nil
	}
	e.Explanation, err = n.store.Explain(ctx, name, e.Reference, places...)
	return e, err
}

// routed is what clients get by a name that can have the address of this server in front,
// and what is left of the name without that; the error is why they get nothing.
func (n *imageNames) routed(name string) (places []cache.Place, asked string, err error) {
	routes := n.now.Load().asked
	if first, rest, ok := cutHost(name); ok {
		if places, err := routes.Route(first, rest); !errors.Is(err, cache.ErrNotServed) {
			return places, rest, err
		}
		name = rest // it is the address of this server, and no registry's
	}
	places, err = routes.Route("", name)
	return places, name, err
}

// Explain implements imageControl.
func (c *controlClient) Explain(ctx context.Context, image string) (explanation, error) {
	return ask[explanation](ctx, c, http.MethodGet, target("/explain", "name", image))
}

// printExplanation prints what a pull would meet.
func printExplanation(out io.Writer, e explanation, now time.Time) error {
	text := &strings.Builder{}
	w := tabwriter.NewWriter(text, 0, 0, 2, ' ', 0)
	line := func(name, value string) {
		if value != "" {
			_, _ = fmt.Fprintf(w, "%s\t%s\n", name, printable(value)) // a Builder takes all
		}
	}
	line("Image:", imageName(e.Name, e.Reference))
	line("Means:", meaningText(e.Explanation, now))
	line("A pull now:", verdictText(e))
	line("Because:", e.Why)
	if t := e.Tag; t != nil {
		line("Tag:", t.Digest.String()+", confirmed "+ago(t.Confirmed, now))
		line("", lifetimeText(*t, now))
	}
	if e.Away != e.Why {
		line("Remote:", e.Away)
	}
	line("Blobs:", partsText(e.Explanation))
	if len(e.Absent) > 0 {
		line("Not stored:", "the platforms "+strings.Join(e.Absent, ", "))
	}
	_ = w.Flush()
	_, err := io.WriteString(out, text.String())
	return err
}

// meaningText says which repository is meant.
func meaningText(e cache.Explanation, now time.Time) string {
	switch {
	case len(e.Among) > 0:
		var all []string
		for _, p := range e.Among {
			all = append(all, p.Repo+" of "+p.Host)
		}
		return "the first that has it of " + strings.Join(all, ", ")
	case e.Place == (cache.Place{}):
		return ""
	}
	text := e.Place.Repo + " of " + hostText(e.Place.Host)
	if e.Bound != nil {
		text += ", where it was found " + ago(e.Bound.Since, now)
	}
	return text
}

// hostText names a remote.
func hostText(host string) string {
	if host == "" {
		return "a registry that is not known any more"
	}
	return host
}

// verdictText says what a pull would be answered.
func verdictText(e explanation) string {
	remote := "the remote"
	if e.Place.Host != "" {
		remote = e.Place.Host
	}
	switch e.Verdict {
	case cache.FromStoreAlone:
		if e.Mirror {
			return "is answered from the store"
		}
		return "is answered from the store; " + remote + " is not asked"
	case cache.FromStoreAsking:
		return "is answered from the store at once, while " + remote + " is asked whether that is still so"
	case cache.AskedFirst:
		return "has " + remote + " asked whether the tag is still so, and is answered from the store if it is, or nobody answers"
	case cache.Fetched:
		return "is fetched from " + remote
	case cache.NotToBeHad:
		return "fails with 503: it is not stored, or too old, and " + remote + " cannot be asked"
	}
	if e.Refused != "" {
		return "fails: " + e.Refused
	}
	return "fails with 404"
}

// lifetimeText says how long a tag is answered without asking.
func lifetimeText(t cache.TagExplanation, now time.Time) string {
	var text string
	switch {
	case t.Immutable:
		text = "never asked about again"
	case !t.Fresh.IsZero():
		text = "not asked about until " + sinceText(t.Fresh, now)
	case t.TTL == 0:
		text = "asked about each time"
	default:
		text = "to be asked about, since it is older than " + t.TTL.String()
	}
	if t.Rule != "" {
		text += ", by the rule " + t.Rule
	}
	if t.TooOld {
		text += "; too old to be given without (REGISTRY_PROXY_MAXSTALE)"
	}
	return text
}

// partsText says how much of an image is stored.
func partsText(e cache.Explanation) string {
	if e.Stored.Times+e.Missing.Times == 0 {
		return ""
	}
	text := quantity(int(e.Stored.Times), "is stored", "are stored") + " (" + sizeText(e.Stored.Bytes) + ")"
	if e.Missing.Times > 0 {
		text += fmt.Sprintf(", %s (%s)", quantity(int(e.Missing.Times), "is fetched when it is asked for", "are fetched when they are asked for"), sizeText(e.Missing.Bytes))
	}
	if e.Kept > 0 {
		text += ", of which " + sizeText(e.Kept) + " are there from a download that broke off"
	}
	return text
}
