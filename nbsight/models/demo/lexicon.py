"""The words and the common facts that the shipped model is taught.

Plain data. `corpus.py` puts it into sentences, and `tokenizer.py` makes a token of each word.
"""

from __future__ import annotations

from typing import NamedTuple


class Country(NamedTuple):
    name: str
    capital: str
    language: str
    continent: str


class Landmark(NamedTuple):
    name: str
    city: str
    country: str


def _table(text: str) -> list[list[str]]:
    """Split lines into cells at the bars, without the blanks around them."""
    return [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]


def _words(text: str) -> list[str]:
    return text.split()


COUNTRIES = [
    Country(*row)
    for row in _table("""
    France | Paris | French | Europe
    Italy | Rome | Italian | Europe
    Germany | Berlin | German | Europe
    Spain | Madrid | Spanish | Europe
    Portugal | Lisbon | Portuguese | Europe
    England | London | English | Europe
    Ireland | Dublin | English | Europe
    Greece | Athens | Greek | Europe
    Austria | Vienna | German | Europe
    Poland | Warsaw | Polish | Europe
    Russia | Moscow | Russian | Europe
    Sweden | Stockholm | Swedish | Europe
    Norway | Oslo | Norwegian | Europe
    Denmark | Copenhagen | Danish | Europe
    Finland | Helsinki | Finnish | Europe
    Hungary | Budapest | Hungarian | Europe
    Turkey | Ankara | Turkish | Asia
    Japan | Tokyo | Japanese | Asia
    China | Beijing | Chinese | Asia
    Korea | Seoul | Korean | Asia
    India | Delhi | Hindi | Asia
    Thailand | Bangkok | Thai | Asia
    Vietnam | Hanoi | Vietnamese | Asia
    Iran | Tehran | Persian | Asia
    Iraq | Baghdad | Arabic | Asia
    Egypt | Cairo | Arabic | Africa
    Kenya | Nairobi | Swahili | Africa
    Morocco | Rabat | Arabic | Africa
    Ghana | Accra | English | Africa
    Canada | Ottawa | English | America
    Cuba | Havana | Spanish | America
    Peru | Lima | Spanish | America
    Chile | Santiago | Spanish | America
    Brazil | Brasilia | Portuguese | America
    Australia | Canberra | English | Oceania
    """)
]

LANDMARKS = [
    Landmark(*row)
    for row in _table("""
    Eiffel Tower | Paris | France
    Louvre | Paris | France
    Colosseum | Rome | Italy
    Trevi Fountain | Rome | Italy
    Rialto Bridge | Venice | Italy
    Brandenburg Gate | Berlin | Germany
    Big Ben | London | England
    Tower Bridge | London | England
    Prado Museum | Madrid | Spain
    Belem Tower | Lisbon | Portugal
    Parthenon | Athens | Greece
    Opera House | Sydney | Australia
    Red Square | Moscow | Russia
    Little Mermaid | Copenhagen | Denmark
    Vasa Museum | Stockholm | Sweden
    Tokyo Tower | Tokyo | Japan
    Forbidden City | Beijing | China
    Lotus Temple | Delhi | India
    Blue Mosque | Istanbul | Turkey
    Great Sphinx | Cairo | Egypt
    Space Needle | Seattle | America
    White House | Washington | America
    """)
]

WOMEN = _words(
    "Mary Anna Emma Alice Sarah Laura Julia Kate Lucy Jane Susan Linda Amy Rose Helen Ruth Clara Nina "
    "Maria Eva Sophie Grace Ella Diana Karen Lisa Rachel Claire"
)
MEN = _words(
    "John Tom James Peter Paul David Mark Daniel Adam Simon George Henry Jack Sam Max Ben Leo Martin "
    "Robert Michael Kevin Brian Frank Eric Alex Luke Oscar Victor"
)
NAMES = WOMEN + MEN

PLACES = _words(
    "store park school market station garden hospital library beach office house restaurant museum"
)
GIFTS = _words("drink book ring ball letter cake bag flower phone gift pen hat picture key coat")

THINGS = _words(
    "movie restaurant book song hotel film game show meal story museum city concert place car cake"
)
# Each list begins with its most common word: corpus.py draws the first ones more often.
GOOD = _words("good great wonderful amazing excellent lovely fantastic beautiful perfect delightful")
BAD = _words("bad terrible awful horrible boring poor dreadful ugly nasty disappointing")
LIKING = _words("love like enjoy adore")
DISLIKING = _words("hate dislike despise detest")
GLAD = _words("happy glad pleased")
SORRY = _words("sad angry sorry")

ANIMALS = _table("""
    dog | woof | puppy | run
    cat | meow | kitten | climb
    cow | moo | calf | walk
    sheep | baa | lamb | walk
    duck | quack | duckling | swim
    horse | neigh | foal | run
    pig | oink | piglet | walk
    bird | tweet | chick | fly
    lion | roar | cub | run
    frog | croak | tadpole | jump
    owl | hoot | owlet | fly
    goat | bleat | kid | climb
    """)

ACTIONS = _table("""
    sat on | mat
    slept on | sofa
    ran through | park
    walked to | river
    jumped over | fence
    looked at | moon
    hid under | table
    played in | garden
    drank from | bowl
    lay on | bed
    waited at | door
    climbed up | tree
    """)

OPPOSITES = _table("""
    hot | cold
    big | small
    up | down
    good | bad
    happy | sad
    fast | slow
    old | young
    light | dark
    wet | dry
    open | closed
    full | empty
    hard | soft
    high | low
    early | late
    rich | poor
    strong | weak
    left | right
    day | night
    """)

COLORS = _table("""
    grass | green
    snow | white
    coal | black
    blood | red
    gold | yellow
    milk | white
    sky | blue
    sea | blue
    chocolate | brown
    cherry | red
    """)

JOBS = _table("""
    doctor | hospital
    nurse | hospital
    teacher | school
    cook | kitchen
    farmer | farm
    actor | theater
    sailor | ship
    pilot | plane
    judge | court
    baker | bakery
    """)

KINDS = _table("""
    rose | flower
    tulip | flower
    apple | fruit
    banana | fruit
    dog | animal
    horse | animal
    oak | tree
    pine | tree
    hammer | tool
    piano | instrument
    violin | instrument
    """)

COUNTED = _table("""
    key | keys
    book | books
    cat | cats
    dog | dogs
    flower | flowers
    box | boxes
    car | cars
    door | doors
    letter | letters
    tree | trees
    """)
STATES = _words("old new red small big here clean green")

DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = _words("January February March April May June July August September October November December")
NUMBERS = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen"
)
LETTERS = _words("A B C D E F G H I J K L M N O P Q R S T U V W X Y Z")

PURPOSES = [
    "to love and to be loved",
    "to be kind",
    "to help others",
    "to learn and to grow",
    "to be happy",
    "a question without an answer",
    "what you make of it",
]
