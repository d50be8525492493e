package protocol

import (
	"encoding/json"
	"slices"
	"strconv"
)

// Encode encodes records, which are written with every turn. What can be large in them stands at the end, and
// is not gone over more often than it must be: State, which is JSON already, is taken as it is, and marks and gateways in any order.
func (r Record) Encode() ([]byte, error) {
	state, seen, aged, gateways := r.State, r.Seen, r.Aged, r.Gateways
	r.State, r.Seen, r.Aged, r.Gateways = nil, nil, nil, nil
	body, err := encodePlain(r)
	if err != nil {
		return nil, err
	}
	body = slices.Grow(body, len(state)+40*(len(seen)+len(aged))+40)
	body = body[:len(body)-1] // the end of the object; there are fields before it
	body = appendMarks(body, "seen", seen)
	body = appendMarks(body, "aged", aged)
	body = appendGateways(body, gateways)
	if len(state) > 0 {
		body = append(append(body, `,"state":`...), state...)
	}
	return append(body, '}'), nil
}

// appendMarks adds a field with marks.
func appendMarks(body []byte, field string, marks map[string]uint64) []byte {
	if len(marks) == 0 {
		return body
	}
	body = append(append(append(body, `,"`...), field...), `":{`...)
	for source, n := range marks {
		body = appendText(body, source)
		body = strconv.AppendUint(append(body, ':'), n, 10)
		body = append(body, ',')
	}
	body[len(body)-1] = '}'
	return body
}

// appendGateways adds the field with gateways.
func appendGateways(body []byte, gateways map[string]Gateway) []byte {
	if len(gateways) == 0 {
		return body
	}
	body = append(body, `,"gateways":{`...)
	for id, g := range gateways {
		body = g.appendTo(append(appendText(body, id), ':'))
		body = append(body, ',')
	}
	body[len(body)-1] = '}'
	return body
}

// appendText adds a JSON text.
func appendText(body []byte, text string) []byte {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, err := json.Marshal(text)
			if err != nil {
				panic(err) // a text
			}
			return append(body, quoted...)
		}
	}
	return append(append(append(body, '"'), text...), '"')
}
