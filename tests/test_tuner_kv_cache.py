import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache

from tuner.kv_cache import Prefix, RoomyCache, cache_of, joined, keep_columns, padded, prefix_of, with_room

HEADS, WIDTH = 2, 3


def tokens(rows, columns, seed):
    return torch.randn(2, rows, HEADS, columns, WIDTH, generator=torch.Generator().manual_seed(seed))


def read(cache, rows, columns, seed):
    keys, values = tokens(rows, columns, seed)
    return cache.update(keys, values, 0)


def same(one, other):
    return torch.equal(one.layers[0].keys, other.layers[0].keys) and torch.equal(
        one.layers[0].values, other.layers[0].values
    )


STEPS = st.lists(st.sampled_from(["token", "tokens", "rows", "columns", "pad", "join"]), max_size=12)


@given(STEPS, st.integers(1, 40))
def test_it_holds_what_a_cache_without_room_holds(steps, singles):
    roomy, plain = RoomyCache(), DynamicCache()
    rows = 2
    for number, step in enumerate(["tokens", *steps, *["token"] * singles]):
        for cache in (roomy, plain):
            if step in ("token", "tokens"):
                keys, values = read(cache, rows, 1 if step == "token" else 4, number)
                assert keys is cache.layers[0].keys
                assert values is cache.layers[0].values
            elif step == "rows":
                cache.batch_select_indices(torch.arange(1, rows) if rows > 1 else torch.tensor([0]))
            elif step == "columns":
                keep_columns(cache, torch.arange(cache.get_seq_length() // 3, cache.get_seq_length()))
            elif step == "pad":
                padded(cache, 2)
            else:
                other = type(cache)()
                read(other, 1, cache.get_seq_length(), number)
                joined([cache, other])
        rows = roomy.layers[0].keys.shape[0]
        assert same(roomy, plain)
        assert roomy.get_seq_length() == plain.get_seq_length()


def test_single_tokens_are_written_in_place_and_what_is_spare_is_zero():
    cache = RoomyCache()
    read(cache, 2, 5, 0)
    read(cache, 2, 1, 1)
    first = cache.layers[0].keys
    whole = with_room(first)
    assert whole.is_contiguous()
    assert whole.shape[2] > 6
    assert not whole[:, :, 6:].any()
    read(cache, 2, 1, 2)
    assert cache.layers[0].keys.data_ptr() == first.data_ptr()
    assert torch.equal(cache.layers[0].keys[:, :, :6], first)


def test_a_prefix_is_not_written_into_by_those_who_go_on_from_it():
    cache = RoomyCache()
    read(cache, 1, 5, 0)
    read(cache, 1, 1, 1)
    prefix = prefix_of(cache, range(6), torch.arange(6))
    before = [layer.clone() for layer in prefix.layers[0]]
    for rows in (1, 3):
        read(cache_of(prefix, rows), rows, 1, 2)
    read(cache, 1, 1, 3)
    assert all(map(torch.equal, prefix.layers[0], before))


def test_a_prefix_that_is_part_of_a_cache_is_left_alone():
    cache = RoomyCache()
    read(cache, 1, 6, 0)
    read(cache, 1, 1, 1)
    layer = cache.layers[0]
    held = Prefix(tuple(range(7)), ((layer.keys, layer.values),))
    for rows in (1, 2):
        other = cache_of(held, rows)
        read(other, rows, 1, 2)
        assert torch.equal(other.layers[0].keys[:, :, :7], layer.keys.expand(rows, -1, -1, -1))
    assert not with_room(layer.keys)[:, :, 7:].any()


def test_what_is_no_start_of_a_larger_tensor_has_no_room():
    whole = torch.randn(2, HEADS, 6, WIDTH)
    for view in (
        whole,
        whole[:, :, 2:],
        whole[:1].expand(2, -1, -1, -1),
        whole.transpose(0, 1),
        whole[:, :1],
    ):
        assert with_room(view) is view
    assert with_room(whole[:, :, :4]).data_ptr() == whole.data_ptr()
