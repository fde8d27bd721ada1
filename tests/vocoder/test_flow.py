"""The flow equals the official one, tensor by tensor, in every mode."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from vocoder_helpers import TINY_FLOW, assert_close, stage_outputs

from vocalnet.decoder.kernels import use_kernel
from vocalnet.vocoder.flow import Flow
from vocalnet.vocoder.token2wav import MAX_FRAMES, Token2Wav, initial_noise

MEL_TOLERANCE = 2e-4
ENCODER_TOLERANCE = 3e-5

ENCODER_STAGES = {
    "enc_embed": "embed",
    "enc_prelook": "pre_lookahead_layer",
    "enc_layer0": "encoders.0",
    "enc_stage1": "encoders.5",
    "enc_up": "up_layer",
}


def test_encoder_stages(token2wav, inputs, official, voice):
    encoder = token2wav.flow_model.encoder
    outputs = stage_outputs(encoder, ENCODER_STAGES, lambda: token2wav.encode(inputs["token"], voice.tokens))
    assert outputs.keys() == ENCODER_STAGES.keys()
    outputs["enc_up"] = outputs["enc_up"].transpose(1, 2)  # the official layer has channels before frames
    for key, output in outputs.items():
        assert_close(output, official[key], 2e-4)


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("enc_out", {}),
        ("enc_out_stream", {"chunk": 25}),
        ("enc_out_lookahead", {"chunk": 25, "finalize": False}),
    ],
)
def test_encoder_output(token2wav, inputs, official, voice, key, options):
    encoded, mu = token2wav.encode(inputs["token"], *voice, **options)
    assert_close(encoded, official[key], ENCODER_TOLERANCE)
    if key == "enc_out":
        assert_close(mu, official["mu"], ENCODER_TOLERANCE)


def test_a_chunk_of_0_sees_everything(token2wav, inputs, voice):
    whole = token2wav.flow(inputs["token"], *voice)
    assert torch.equal(token2wav.flow(inputs["token"], *voice, chunk=0), whole)
    for method in (token2wav.flow, token2wav.encode):
        with pytest.raises(ValueError, match="chunk is -1"):
            method(inputs["token"], *voice, chunk=-1)


def test_encoder_of_vocalnet(token2wav, inputs, vocalnet, voice):
    assert_close(token2wav.encode(inputs["token"], *voice, chunk=50)[0], vocalnet["enc_out"], ENCODER_TOLERANCE)


def test_speaker_and_schedule(token2wav, inputs, official):
    assert_close(token2wav.speaker(inputs["embedding"]), official["spk_proj"], 1e-5)
    assert_close(token2wav.schedule(), official["t_span"], 1e-6)


@pytest.mark.parametrize(("key", "chunk"), [("est_out", None), ("est_out_stream", 25)])
def test_estimator(token2wav, inputs, official, key, chunk):
    x, mu, t, spk, cond = (inputs[f"est_{name}"] for name in ("x", "mu", "t", "spks", "cond"))
    assert_close(token2wav.estimate(x, mu, t, spk, cond, chunk=chunk), official[key], MEL_TOLERANCE)


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("mel_offline", {}),
        ("mel_stream_full", {"chunk": 25}),
        ("mel_lookahead", {"chunk": 25, "finalize": False}),
        ("mel_lookahead_offline", {"finalize": False}),
    ],
)
def test_mel(token2wav, inputs, official, voice, key, options):
    assert_close(token2wav.flow(inputs["token"], *voice, **options), official[key], MEL_TOLERANCE)


@pytest.mark.parametrize(
    ("key", "options"), [("mel_final", {}), ("mel_lookahead", {"finalize": False, "lookahead": "cut"})]
)
def test_mel_of_vocalnet(token2wav, inputs, vocalnet, voice, key, options):
    assert_close(token2wav.flow(inputs["token"], *voice, chunk=50, **options), vocalnet[key], MEL_TOLERANCE)


def test_mel_without_prompt(token2wav, inputs, official):
    mel = token2wav.flow(inputs["prompt_none_token"], embedding=inputs["embedding"])
    assert_close(mel, official["mel_noprompt"], MEL_TOLERANCE)


def test_initial_noise(inputs):
    """The default noise is the official buffer, and a longer utterance begins like a shorter one."""
    noise = initial_noise(80)
    assert noise.shape == (1, 80, MAX_FRAMES)
    assert torch.equal(noise[..., : inputs["cfm_noise"].shape[2]], inputs["cfm_noise"])
    assert noise.double().sum().item() == pytest.approx(-1291.2013939, abs=1e-3)


def test_noise_argument_is_used(tiny, inputs):
    default = tiny.flow([1, 2])
    assert torch.equal(tiny.flow([1, 2], noise=inputs["cfm_noise"]), default)
    assert (tiny.flow([1, 2], noise=0.5 * inputs["cfm_noise"]) - default).abs().max() > 0.1


def test_steps_and_guidance_set_the_work(tiny, monkeypatch):
    """n_steps estimator calls; two rows with guidance, one without; the config gives the default."""
    rows: list[int] = []
    velocity = Flow.velocity

    def counting(self, x_t, *args, **kwargs):
        rows.append(len(x_t))
        return velocity(self, x_t, *args, **kwargs)

    monkeypatch.setattr(Flow, "velocity", counting)
    tiny.flow([1, 2, 3])
    tiny.flow([1, 2, 3], n_steps=2, cfg_rate=0.0)
    assert rows == [2, 2, 2, 1, 1]


def test_unguided_row_is_the_conditional_one(tiny):
    """Guidance of almost zero gives almost what skipping the second row gives."""
    assert_close(tiny.flow([1, 2, 3], cfg_rate=1e-7), tiny.flow([1, 2, 3], cfg_rate=0.0), 1e-5)


def test_negative_tokens_count_as_zero(tiny):
    assert torch.equal(tiny.flow([-1, 4]), tiny.flow([0, 4]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": [50]}, "Speech token 50 is not in the vocoder's vocabulary of 50"),
        ({"tokens": []}, "no speech tokens"),
        ({"tokens": [1, 2, 3], "finalize": False}, "at least 4"),
        ({"tokens": [1] * 7501}, "7500 fit"),
        ({"tokens": [1, 2], "noise": torch.zeros(1, 80, 3)}, "limit is 3"),
        ({"tokens": [1, 2], "lookahead": "none"}, "context, cut"),
        ({"tokens": [1], "prompt_tokens": torch.ones(1, 2)}, "needs a mel of shape"),
        ({"tokens": [1], "embedding": torch.ones(1, 3)}, "speaker vector must be"),
    ],
)
def test_bad_input(tiny: Token2Wav, arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny.flow(**arguments)


def test_the_temperature_scales_the_noise_that_nobody_gave(tiny):
    cool = Token2Wav(replace(tiny.flow_config, temperature=0.5), tiny.hift_config).eval()
    cool.load_state_dict(tiny.state_dict())
    tokens = torch.arange(6)[None]
    noise = initial_noise(tiny.flow_config.n_mels)
    assert torch.equal(cool.flow(tokens), tiny.flow(tokens, noise=0.5 * noise))
    assert torch.equal(cool.flow(tokens, noise=noise), tiny.flow(tokens))
    assert not torch.equal(cool.flow(tokens), tiny.flow(tokens))


def test_a_packed_flow_computes_the_same():
    torch.manual_seed(0)
    flow = Flow(TINY_FLOW).half().float().eval().requires_grad_(False)
    tokens = torch.arange(12)[None]
    noise, zeros = torch.ones(1, 80, 24), torch.zeros(1, 80, 24)

    def mel() -> torch.Tensor:
        with torch.no_grad():
            _, mu = flow.encode(tokens, chunk=4)
            return flow.sample(noise, mu.transpose(1, 2), zeros[..., 0], zeros, chunk=4)

    expected = mel()
    use_kernel(flow, "packed")
    assert not any(type(part) is torch.nn.Linear for part in flow.modules())
    assert_close(mel(), expected, 1e-5)
