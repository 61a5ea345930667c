package option_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool/internal/option"
)

type setting interface{ apply(*[]int) }

type number int

func (n number) apply(to *[]int) { *to = append(*to, int(n)) }

func TestOptionsAreAppliedInOrderUntilOneIsNil(t *testing.T) {
	var got []int
	apply := func(s setting) { s.apply(&got) }
	require.NoError(t, option.Apply("pack", []setting{number(2), number(1)}, apply))
	require.NoError(t, option.Apply("pack", nil, apply))
	require.Equal(t, []int{2, 1}, got)
	require.EqualError(t, option.Apply("pack", []setting{number(3), nil, number(4)}, apply), "pack: option 2 must not be nil")
	require.Equal(t, []int{2, 1, 3}, got)
}

func TestBadSaysWhatIsAllowed(t *testing.T) {
	require.EqualError(t, option.Package("pack").Bad("WithSize: n", "be positive", -1), "pack: WithSize: n must be positive, got -1")
}
