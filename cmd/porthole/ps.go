package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"porthole"
	"porthole/cmd/porthole/internal/columns"
	"porthole/cmd/porthole/internal/control"
)

type psCmd struct {
	JSON bool `name:"json" help:"One JSON object a line."`
}

// psLine is one running host.
type psLine struct {
	porthole.Health
	Socket string `json:"socket"`
	PID    int    `json:"pid,omitempty"` // where this process can see it
}

// Run lists the running hosts of this user.
func (c *psCmd) Run(con *console) error {
	dir := control.Dir()
	rows := [][]string{{"HOST", "DEVICE", "KIND", "ADDRESS", "ADDRESS6", "UP", "PID", "LEDGER"}}
	for _, name := range control.Running(dir) {
		client, err := control.Find(dir, name)
		if err != nil {
			continue // it has just ended
		}
		h, err := client.Health(context.Background())
		if err != nil {
			continue
		}
		line := psLine{h, client.Path(), client.PID()}
		if c.JSON {
			if err := json.NewEncoder(con.out).Encode(&line); err != nil {
				return err
			}
			continue
		}
		ledger := "ok"
		if !h.LedgerOK {
			ledger = "BROKEN"
		}
		pid := "-"
		if line.PID > 0 {
			pid = fmt.Sprint(line.PID)
		}
		rows = append(rows, []string{
			h.Name, h.Device, h.Kind, orDash(h.Address), orDash(h.Address6),
			time.Since(h.Started).Round(time.Second).String(), pid, ledger,
		})
	}
	if c.JSON {
		return nil
	}
	if len(rows) == 1 {
		return control.None()
	}
	_, err := io.WriteString(con.out, columns.Text(rows))
	return err
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
