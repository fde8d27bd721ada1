"""nano's held-out set: combinations never trained, in trained and in held-out voices, and clips outside the domain.

It measures; it never chooses a checkpoint (the dev split does).
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np

from vocalnet.audio import SAMPLE_RATE_HZ, write_wav
from vocalnet.training.corpus import noise
from vocalnet.training.domain import REFUSAL_KEY, candidates, draw
from vocalnet.training.synthesis import Job, Voice, random_job, speak

N_FOREIGN, N_NOISE = 20, 20

# Sixty sentences of topics that the trained refusals do not touch.
OTHER_TOPICS = (
    "Who painted the ceiling of the chapel?", "How do bees make honey?", "What should I plant in my garden this month?",
    "Why do cats purr at night?", "Tell me something about the Roman empire.", "How many players are on a hockey team?",
    "Which vitamin is in carrots?", "Can you lend me twenty dollars?", "My shoulder hurts when I lift my arm.",
    "What happened at the court yesterday?", "Is this train going to the north?", "I would like a table for two.",
    "Do you have this shirt in blue?", "Please close the window, it is cold in here.", "How do I change a flat tire?",
    "What is the plot of that film?", "Which river flows through the jungle?", "How long does it take to fly to the moon?",
    "Describe the taste of pepper.", "Why did the market crash?", "Who discovered penicillin?", "What makes a rainbow?",
    "Where can I buy stamps?", "How do you tie a bow tie?", "Read me the first page of the newspaper.",
    "What do whales eat?", "When does the library close tonight?", "Who is the captain of the national team?",
    "How is glass made?", "What is your opinion about taxes?", "Can penguins fly?", "Explain how a bill becomes a law.",
    "What should I cook for dinner?", "My computer screen is black.", "How do I remove a stain from a carpet?",
    "Which instrument has forty seven strings?", "Where were the first Olympic games held?", "Is coffee good for your health?",
    "How do I write a letter of complaint?", "What causes an earthquake?", "Tell me the story of the three little pigs.",
    "How old is the universe?", "What does a notary do?", "Why is the sky blue?", "How do submarines dive?",
    "Please water the plants while I am away.", "The cat is sleeping on the keyboard again.", "Who sang that song in the nineties?",
    "How much sugar is in a lemonade?", "What is the best route to avoid traffic?", "Find me a cheap flight for Friday.",
    "Did you watch the final on television?", "How do I train my puppy?", "Which wine goes with fish?",
    "What are the rules of tennis?", "I forgot my password.", "How do magnets work?", "Who owns this building?",
    "What is a good name for a boat?", "She left her umbrella on the bus this morning.",
)  # fmt: skip
FOREIGN = (
    ("de", "Können Sie mir bitte helfen?"), ("de", "Der Zug fährt um acht Uhr ab."), ("fr", "Quelle heure est-il?"),
    ("fr", "Je ne comprends pas la question."), ("es", "Qué hora es ahora?"), ("es", "Mi hermano vive en el campo."),
    ("it", "Che ore sono?"), ("it", "Mio fratello abita in campagna."), ("ru", "Здравствуйте, как дела?"),
    ("ru", "Где находится вокзал?"), ("cs", "Dobrý den, jak se máte?"), ("cs", "Kde je nádraží?"),
    ("el", "Καλημέρα, τι κάνετε;"), ("el", "Πού είναι ο σταθμός;"), ("da", "Goddag, hvordan har du det?"),
    ("da", "Hvor er banegården?"), ("nb", "God dag, hvordan har du det?"), ("pt", "Que horas são?"),
    ("nl", "Hoe laat is het nu?"), ("pl", "Która jest godzina?"),
)  # fmt: skip


def heldout_items(
    workdir: Path, n: int = 330, seed: int = 7, workers: int = 2, domain: str = "full"
) -> list[dict[str, Any]]:
    """Returns the fields of `evaluation.Item` of `n` questions inside the domain and 100 clips outside of it.

    Those inside alternate between training and held-out voices. Clips that exist under `workdir` are kept.

    Raises:
        ValueError: a synthesis engine is not installed, or there is no such domain.
    """
    clips = workdir / (f"clips-{seed}" if domain == "core" else f"clips-{domain}-{seed}")
    clips.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"{seed}-heldout")
    jobs: list[Job] = []
    items: list[dict[str, Any]] = []

    def add(job: Job, split: str, **fields: Any) -> None:
        jobs.append(job)
        items.append(
            {"id": job.path.stem, "audio": str(job.path), "voice": job.voice.label, "voice_split": split, **fields}
        )

    for i, question in enumerate(draw("heldout", n, seed, domain)):
        is_heldout = i % 2 == 1
        fields = {"topic": question.topic, "question": question.text, "answer": question.answer, "key": question.key}
        add(
            random_job(question.text, clips / f"question-{i:04d}.wav", rng, is_heldout),
            "heldout" if is_heldout else "train",
            candidates=candidates(question.candidates),
            kind="in_domain",
            **fields,
        )
    declined = {"kind": "out_of_domain", "key": REFUSAL_KEY}
    for i, sentence in enumerate(OTHER_TOPICS):
        is_heldout = i % 2 == 1
        job = random_job(sentence, clips / f"other-{i:04d}.wav", rng, is_heldout)
        add(job, "heldout" if is_heldout else "train", topic="other_topics", question=sentence, **declined)
    for i, (language, sentence) in enumerate(FOREIGN):
        job = Job(sentence, Voice(language, "espeak", 1), clips / f"foreign-{i:04d}.wav")
        add(job, "heldout", topic="other_languages", question=sentence, **declined)
    speak(jobs, workers)
    for i in range(N_NOISE):
        generator = np.random.default_rng([seed, 1000 + i])
        path = clips / f"noise-{i:04d}.wav"
        write_wav(path, noise(generator, generator.uniform(0.5, 4.0)), SAMPLE_RATE_HZ)
        fields = {"id": path.stem, "audio": str(path), "voice": "noise", "voice_split": "heldout", "topic": "noise"}
        items.append({**fields, "question": "", **declined})
    return items
