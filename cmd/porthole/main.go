// Command porthole runs a virtual host that you can see into, and asks a running
// one what it does. See `porthole --help`; every command is one file of this folder.
package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"porthole/cmd/porthole/internal/config"
	"porthole/cmd/porthole/internal/control"
	"porthole/services"
)

const about = `A virtual host that you can see into: real clients, a port table, and a queue behind every port.

First:  porthole demo`

type cli struct {
	Demo    demoCmd    `cmd:"" help:"The first minute: bring a host up in a private network and point real clients at it."`
	Exec    execCmd    `cmd:"" help:"Run a command in a private network that has the host in it. No root needed."`
	Up      upCmd      `cmd:"" help:"Bring the host up on this machine until Ctrl-C. Needs root (CAP_NET_ADMIN)."`
	Ports   portsCmd   `cmd:"" help:"Show the port table of a running host: every queue, how full, how full at most."`
	Set     setCmd     `cmd:"" help:"Change a port's queues, and the speed of its service, while it runs."`
	Fates   fatesCmd   `cmd:"" help:"Show what became of every packet, and that none is missing."`
	Flows   flowsCmd   `cmd:"" help:"Show the conversations: what each met on its way, and when."`
	Why     whyCmd     `cmd:"" help:"Explain what held a connection up, and what size would have been enough."`
	Capture captureCmd `cmd:"" help:"Write packets with what became of them, for Wireshark and tshark."`
	Open    openCmd    `cmd:"" help:"Run a service on one more port."`
	Close   closeCmd   `cmd:"" help:"Close a port."`
	Reload  reloadCmd  `cmd:"" help:"Make a running host take its changed configuration."`
	Events  eventsCmd  `cmd:"" help:"Show what happened: ports bound and released, queues that filled, settings changed."`
	Ps      psCmd      `cmd:"" help:"List the running hosts."`
	Config  configCmd  `cmd:"" help:"Print the configuration as commented YAML; --config FILE takes it."`
	Doctor  doctorCmd  `cmd:"" help:"Say what this machine lacks and the command that mends it."`
	Client  clientCmd  `cmd:"" help:"Clients that other machines do not have."`
	Version versionCmd `cmd:"" help:"Print the version."`
	Lab     labCmd     `cmd:"" help:"Experiments that show how ports, handshakes and queue sizes behave."`
	Inside  insideCmd  `cmd:"" hidden:""`
}

// console is where a command reads and writes.
type console struct {
	in       io.Reader
	out, err *os.File
}

func main() {
	os.Exit(run(os.Args[1:], &console{os.Stdin, os.Stdout, os.Stderr}))
}

// run carries out one command line and returns the exit code: 0 good, 1 failed, 2
// wrong usage or configuration; `exec` returns its command's.
func run(args []string, con *console) int {
	parser, err := kong.New(&cli{},
		kong.Name("porthole"), kong.Description(about),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}),
		kong.Writers(con.out, con.err), kong.Bind(con))
	if err != nil {
		return report(con, err)
	}
	ctx, err := parser.Parse(habits(args))
	if err != nil {
		return report(con, usage(parser, err))
	}
	return report(con, ctx.Run(con))
}

// habits takes what people type at a program that they do not know.
func habits(args []string) []string {
	switch {
	case len(args) == 0:
		return []string{"--help"}
	case args[0] == "help":
		return append(slices.Clone(args[1:]), "--help")
	case len(args) == 1 && args[0] == "--version":
		return []string{"version"}
	}
	return args
}

// usageError is a command line that cannot be carried out as it stands.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// codeError ends the program with a code; everything to say has been said.
type codeError int

func (e codeError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// missing is how kong says that a flag stands at the end without its value.
var missing = regexp.MustCompile(`expected .* but got "EOL" \(<EOL>\)`)

func usage(parser *kong.Kong, err error) error {
	help := parser.Model.Name
	var pe *kong.ParseError
	if errors.As(err, &pe) && pe.Context.Command() != "" {
		help += " " + strings.Join(strings.FieldsFunc(pe.Context.Command(), func(r rune) bool { return r == ' ' }), " ")
		help, _, _ = strings.Cut(help, " <") // the command without its arguments
	}
	text := missing.ReplaceAllString(err.Error(), "a value is missing")
	text = strings.Replace(text, `, did you mean "-h"?`, "", 1) // nobody who writes -1/tcp does
	text = strings.Replace(text, `,"" but got`, ` but got`, 1)  // the default is not for users
	return usageError{fmt.Errorf("%s; see `%s --help`", text, help)}
}

// report prints err as the one line it is and returns the exit code it stands for.
// The problems of a configuration file are a line each, which an editor can follow.
func report(con *console, err error) int {
	var code codeError
	var problems config.Problems
	var wrong *services.ConfigError
	var use usageError
	var no *control.Error
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &problems):
		fmt.Fprintln(con.err, problems)
		return 2
	case errors.As(err, &no) && len(no.Failure.Problems) > 0:
		fmt.Fprintln(con.err, strings.Join(no.Failure.Problems, "\n"))
		return 2
	}
	fmt.Fprintln(con.err, "porthole: "+strings.ReplaceAll(err.Error(), "\n", "; "))
	if errors.As(err, &use) || errors.As(err, &wrong) {
		return 2
	}
	if no != nil && (no.Status == http.StatusBadRequest || no.Status == http.StatusNotFound) {
		return 2 // what was asked for cannot be
	}
	return 1
}
