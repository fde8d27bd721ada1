"""Word lists and facts of nano's domain (see domain.py for the questions made of them)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def number(n: int) -> str:
    """Returns an integer 0..9999 in words ("one hundred forty four")."""
    if n < 20:
        return _ONES[n]
    if n < 100:
        return _TENS[n // 10 - 2] + ("" if n % 10 == 0 else f" {_ONES[n % 10]}")
    size, name = (100, "hundred") if n < 1000 else (1000, "thousand")
    return f"{number(n // size)} {name}" + ("" if n % size == 0 else f" {number(n % size)}")


DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()

HALF_DAY = 720  # minutes on a clock face


def clock_time(minutes: int) -> str:
    """Returns a time on the clock face, a whole number of quarters of an hour, in words ("quarter past nine")."""
    hour, quarter = divmod(minutes % HALF_DAY, 60)
    name = ("{}", "quarter past {}", "half past {}", "quarter to {}")[quarter // 15]
    return name.format(number((hour + (quarter == 45) - 1) % 12 + 1)) + (" o'clock" if quarter == 0 else "")


CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon", "England": "London",
    "Ireland": "Dublin", "Scotland": "Edinburgh", "Austria": "Vienna", "Switzerland": "Bern", "Belgium": "Brussels",
    "Greece": "Athens", "Poland": "Warsaw", "Hungary": "Budapest", "Sweden": "Stockholm", "Norway": "Oslo",
    "Denmark": "Copenhagen", "Finland": "Helsinki", "Russia": "Moscow", "Ukraine": "Kiev", "Turkey": "Ankara",
    "Egypt": "Cairo", "Kenya": "Nairobi", "Morocco": "Rabat", "India": "New Delhi", "China": "Beijing", "Japan": "Tokyo",
    "Thailand": "Bangkok", "Vietnam": "Hanoi", "Indonesia": "Jakarta", "Australia": "Canberra", "Canada": "Ottawa",
    "the United States": "Washington", "Cuba": "Havana", "Peru": "Lima", "Chile": "Santiago", "Brazil": "Brasilia",
    "Argentina": "Buenos Aires", "Iraq": "Baghdad", "Iran": "Tehran", "Israel": "Jerusalem", "South Korea": "Seoul",
    "the Netherlands": "Amsterdam", "the Czech Republic": "Prague", "Romania": "Bucharest", "Bulgaria": "Sofia",
}  # fmt: skip

OPPOSITES = tuple(
    tuple(pair.split("/"))
    for pair in (
        "hot/cold big/small good/bad up/down left/right day/night black/white fast/slow high/low long/short open/closed "
        "old/new happy/sad rich/poor hard/soft strong/weak wet/dry full/empty early/late light/dark easy/difficult wide/narrow "
        "thick/thin loud/quiet clean/dirty near/far inside/outside first/last always/never true/false begin/end give/take "
        "push/pull win/lose buy/sell love/hate question/answer man/woman sweet/sour sharp/blunt alive/dead brave/afraid "
        "north/south east/west summer/winter"
    ).split()
)

PLURALS = {
    "child": "children", "mouse": "mice", "foot": "feet", "tooth": "teeth", "goose": "geese", "person": "people",
    "leaf": "leaves", "knife": "knives", "wolf": "wolves", "city": "cities", "baby": "babies", "box": "boxes",
    "bus": "buses", "dish": "dishes", "church": "churches", "glass": "glasses", "potato": "potatoes", "hero": "heroes",
    "dog": "dogs", "cat": "cats", "house": "houses", "tree": "trees", "book": "books", "car": "cars", "table": "tables",
    "river": "rivers", "apple": "apples", "bird": "birds", "flower": "flowers", "window": "windows", "chair": "chairs",
    "garden": "gardens", "letter": "letters", "story": "stories", "lady": "ladies", "country": "countries", "half": "halves",
    "shelf": "shelves", "thief": "thieves", "ox": "oxen",
}  # fmt: skip

# small unit (plural), one big unit, big units, how many
UNITS = (
    ("minutes", "an hour", "hours", 60),
    ("seconds", "a minute", "minutes", 60),
    ("hours", "a day", "days", 24),
    ("days", "a week", "weeks", 7),
    ("months", "a year", "years", 12),
    ("days", "a year", "years", 365),
    ("weeks", "a year", "years", 52),
    ("years", "a century", "centuries", 100),
    ("meters", "a kilometer", "kilometers", 1000),
    ("centimeters", "a meter", "meters", 100),
    ("grams", "a kilogram", "kilograms", 1000),
    ("inches", "a foot", "feet", 12),
    ("eggs", "a dozen", "dozen", 12),
    ("cents", "a dollar", "dollars", 100),
    ("sides", "a triangle", "triangles", 3),
    ("sides", "a square", "squares", 4),
    ("legs", "a spider", "spiders", 8),
    ("wheels", "a bicycle", "bicycles", 2),
)

DEFINITIONS = {
    "a baker": "a person who bakes bread", "a doctor": "a person who helps the sick", "a farmer": "a person who grows food",
    "a teacher": "a person who helps others learn", "a pilot": "a person who flies planes", "a poet": "a person who writes poems",
    "a sailor": "a person who works on a ship", "a library": "a place full of books", "a kitchen": "a room for cooking",
    "a bakery": "a place that sells bread", "a garage": "a place for cars", "a harbor": "a place for ships",
    "a desert": "a land with little rain", "an island": "a land with water all around", "a forest": "a land full of trees",
    "a bridge": "a way over a river", "a tunnel": "a way under the ground", "a puppy": "a young dog", "a kitten": "a young cat",
    "a calf": "a young cow", "a lamb": "a young sheep", "a foal": "a young horse", "an uncle": "the brother of a parent",
    "an aunt": "the sister of a parent", "a grandfather": "the father of a parent", "a grandmother": "the mother of a parent",
    "breakfast": "the meal of the morning", "lunch": "the meal of the middle of the day", "supper": "the meal of the evening",
    "a hammer": "a tool for nails", "a saw": "a tool for wood", "a pen": "a tool for writing", "a needle": "a tool for sewing",
    "ice": "frozen water", "snow": "frozen rain", "steam": "very hot water", "dawn": "the start of the day",
    "dusk": "the end of the day", "a decade": "ten years", "a fortnight": "two weeks", "a pair": "two of a kind",
}  # fmt: skip

SMALL_TALK = (
    (("hello", "hi", "hi there", "hello there", "hey", "greetings"), "Hello! How can I help you?", "hello"),
    (("good morning", "a very good morning to you"), "Good morning to you!", "good morning"),
    (("good evening", "a very good evening to you"), "Good evening to you!", "good evening"),
    (("good afternoon",), "Good afternoon to you!", "good afternoon"),
    (("how are you", "how do you do", "how is it going", "how are you doing today", "how are you today"), "I am fine, thank you.", "i am fine"),
    (("thank you", "thanks a lot", "thank you very much", "many thanks", "thanks"), "You are welcome.", "you are welcome"),
    (("goodbye", "bye bye", "see you tomorrow", "see you later", "have a nice day", "good night"), "Goodbye, see you soon.", "goodbye"),
)  # fmt: skip

IDENTITY = (
    (("who are you", "what are you", "!introduce yourself", "!tell me who you are"), "I am Nano, a small speech model.", "speech model"),
    (("what is your name", "what are you called", "!tell me your name", "do you have a name"), "My name is Nano.", "my name is"),
    (("what can you do", "what do you know", "how can you help me", "!tell me what you can do"), "I can talk about numbers, days, words and capitals.", "i can talk"),
    (("are you a human", "are you a person", "are you real", "are you a robot"), "No, I am a computer program.", "computer program"),
    (("who made you", "who built you", "who created you", "where do you come from"), "I was trained by an open project.", "open project"),
    (("which languages do you speak", "what language do you speak", "do you speak English"), "I speak only English.", "only english"),
)  # fmt: skip

NAMES = (
    "Anna Ben Carol David Emma Frank Grace Henry Ivan Jack Kate Laura Mary Nick Oscar Paul Peter Rachel Sam Tom Victor "
    "William Alice Robert Susan Julia Martin Simon Helen George Maria John Linda James Karen Steven Nancy Kevin Betty Mark"
).split()

COMMON_WORDS = (
    "about above across air almost along animal apple area arm army art away back bag ball bank bath beach bean bear beautiful bed "
    "bell bench best bird blanket blood blue board boat body bone book bottle bottom box boy branch bread breakfast bridge bright "
    "brother brown brush bus busy butter button cake camera camp captain car card careful carpet carry cat chair chalk cheap cheese "
    "chicken child circle city class clear clever clock cloth cloud coat coffee color company cook copper corner cotton country "
    "cousin cover cow cup curtain dance danger daughter deep desk dinner doctor dog door dream dress drink driver dust eagle ear "
    "earth egg engine evening every eye face family famous farm father feather field finger fire fish flag floor flower fly food "
    "forest fork friend fruit garden gate gentle giant girl glass gold good grandmother grass great green ground group guitar hair "
    "hammer hand happy harbor hat heart heavy history holiday home honey horse hospital hotel house hungry ice important island "
    "jacket journey juice jump kettle key kitchen lake lamp language large laugh leaf leather lemon lesson letter library lion "
    "little lucky machine market meal meat metal middle milk mirror money monkey moon morning mother mountain mouse mouth movie "
    "music nature neck needle new nice noise nose number nurse ocean office oil old onion orange paint paper parent party pencil "
    "pepper picture pig pillow plane plant plate pocket poor potato pretty prince purple quick quiet rabbit rain red rice ring "
    "river road rock roof room rope rose round sad salt sand school sea shadow sheep ship shirt shoe shop silver sister sky sleep "
    "slow small smile snow soap soft soup spoon spring square stamp star station stone storm story street strong sugar summer sun "
    "sweet table tall teacher tiger tired tomato tower town train travel tree uncle valley village violin voice wall warm water "
    "weather wheel white wild wind window winter wise wolf wonderful wood yellow young"
).split()  # fmt: skip

REFUSAL = "Sorry, I only know a few simple things."

_PEOPLE = ("Shakespeare", "Mozart", "Napoleon", "Einstein", "the president", "the king of Spain", "your favorite singer", "Columbus",
           "Picasso", "the mayor", "my neighbor", "Darwin")  # fmt: skip
_THINGS = ("the engine of a car", "a telephone", "the stock market", "photosynthesis", "a black hole", "the internet", "gravity",
           "democracy", "a vaccine", "a piano", "the human brain", "chess", "electricity", "climate change", "poetry",
           "the ocean", "football", "philosophy", "a volcano", "rain")  # fmt: skip
_DISHES = ("a cake", "tomato soup", "pizza", "pancakes", "fried rice", "an omelette", "bread", "apple pie")
_PLACES = (
    "the station",
    "the airport",
    "the next restaurant",
    "my hotel",
    "the museum",
    "the post office",
    "the beach",
    "downtown",
)
_OTHER = (
    "who was {person}?", "when was {person} born?", "tell me about {person}.", "what did {person} do last year?",
    "how old is {person}?", "where does {person} live?", "how does {thing} work?", "what do you think about {thing}?",
    "explain {thing} to me.", "why is {thing} so important?", "who invented {thing}?", "write a story about {thing}.",
    "tell me a joke about {thing}.", "how do I make {dish}?", "give me a recipe for {dish}.", "how long do I bake {dish}?",
    "can you order {dish} for me?", "how do I get to {place}?", "how far is it to {place}?", "is {place} open today?",
    "book me a taxi to {place}.", "what is the weather like at {place}?",
)  # fmt: skip
_OTHER_FIXED = (
    "what is the weather today?", "will it rain this afternoon?", "play some music.", "turn on the lights.", "set an alarm for six.",
    "sing me a song.", "tell me a joke.", "what time is it?", "what is the news today?", "call my mother.", "send a message to my boss.",
    "who won the game last night?", "what should I wear today?", "I feel sick, what should I do?", "translate this into French.",
    "what is the meaning of life?", "do you believe in ghosts?", "what is your favorite movie?", "can you help me with my homework?",
    "how do I fix my computer?", "how much does a house cost?", "which phone should I buy?", "what is the best way to learn guitar?",
    "recommend a good book.", "how many people live on earth?", "how deep is the sea?", "how tall is the highest mountain?",
    "what is the speed of light?", "how many stars are in the sky?", "why do birds fly south?", "how do airplanes stay in the air?",
    "what is the fastest car?", "who wrote the bible?", "when did the war end?", "which team is the best?", "open the door.",
    "I lost my keys.", "my dog ate my shoes.", "the train was late again.", "let us go swimming.", "I am very tired of this.",
    "yesterday we visited our grandmother in the country.", "the committee will meet again on the second floor.",
    "she bought a pair of red shoes for the party.", "he never told me why he left the company.",
)  # fmt: skip


def other_topics() -> Iterator[str]:
    """Yields sentences outside the domain that nano is trained to decline (the held-out ones are in heldout.py)."""
    slots = {"person": _PEOPLE, "thing": _THINGS, "dish": _DISHES, "place": _PLACES}
    for template in _OTHER:
        name = template[template.index("{") + 1 : template.index("}")]
        for value in slots[name]:
            yield template.format(**{name: value})
    for opening, sentence in itertools.product(("", "hey, ", "please, "), _OTHER_FIXED):
        yield opening + sentence


CANDIDATES = {
    "numbers": [number(n) for n in range(145)] + [number(n) for n in (365, 1000)],
    "days": [d.lower() for d in DAYS],
    "months": [m.lower() for m in MONTHS],
    "cities": [c.lower() for c in CAPITALS.values()],
    "countries": [c.lower() for c in CAPITALS],
    "opposites": [w for pair in OPPOSITES for w in pair],
    "plurals": list(PLURALS.values()) + list(PLURALS),
    "small_talk": [key for _, _, key in SMALL_TALK],
    "names": [n.lower() for n in NAMES],
    "identity": [key for _, _, key in IDENTITY],
    "times": [clock_time(minutes) for minutes in range(0, HALF_DAY, 15)],
    "definitions": list(DEFINITIONS.values()),
    "defined": list(DEFINITIONS),
}

# Everyday sentences of languages that nano does not speak, by espeak-ng voice; declined like other topics.
FOREIGN = {
    "de": (
        "Guten Tag, wie geht es Ihnen heute?",
        "Wo ist der Bahnhof?",
        "Ich möchte ein Glas Wasser.",
        "Das Wetter ist schön.",
    ),
    "fr": (
        "Bonjour, comment allez-vous?",
        "Où est la gare?",
        "Je voudrais un verre d'eau.",
        "Il fait beau aujourd'hui.",
    ),
    "es": (
        "Buenos días, cómo está usted?",
        "Dónde está la estación?",
        "Quiero un vaso de agua.",
        "Hoy hace buen tiempo.",
    ),
    "it": (
        "Buongiorno, come sta?",
        "Dove si trova la stazione?",
        "Vorrei un bicchiere d'acqua.",
        "Oggi il tempo è bello.",
    ),
    "pt": ("Bom dia, como está?", "Onde fica a estação?", "Queria um copo de água.", "Hoje está bom tempo."),
    "nl": (
        "Goedendag, hoe gaat het met u?",
        "Waar is het station?",
        "Ik wil graag een glas water.",
        "Het weer is mooi.",
    ),
    "sv": ("God dag, hur mår du?", "Var ligger stationen?", "Jag vill ha ett glas vatten.", "Vädret är fint idag."),
    "pl": (
        "Dzień dobry, jak się pan ma?",
        "Gdzie jest dworzec?",
        "Poproszę szklankę wody.",
        "Dzisiaj jest ładna pogoda.",
    ),
    "tr": ("Merhaba, nasılsınız?", "İstasyon nerede?", "Bir bardak su istiyorum.", "Bugün hava güzel."),
    "fi": ("Hyvää päivää, mitä kuuluu?", "Missä on asema?", "Haluaisin lasin vettä.", "Tänään on kaunis sää."),
    "hu": ("Jó napot, hogy van?", "Hol van az állomás?", "Egy pohár vizet kérek.", "Ma szép idő van."),
    "ro": ("Bună ziua, ce mai faceți?", "Unde este gara?", "Aș dori un pahar de apă.", "Astăzi este vreme frumoasă."),
}
