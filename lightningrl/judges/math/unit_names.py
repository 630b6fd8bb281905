"""The words that may follow a number without changing it: units, money, time, and commonly counted things.

A word on no list changes the number or is unknown: `36 tenths`, `36 lakh`, `36 at most` are not 36. Besides these lists
the question's own words are units ("how many daps?"), except for the words of `CHANGES`, which always say something
about the number.
"""

from __future__ import annotations

import re

NAMES = {
    "centimeter": "cm", "centimetre": "cm", "meter": "m", "metre": "m", "kilometer": "km", "kilometre": "km",
    "millimeter": "mm", "millimetre": "mm", "inch": "inch", "inche": "inch", "in": "inch", "foot": "ft", "feet": "ft",
    "hour": "h", "hr": "h", "minute": "min", "second": "s", "sec": "s", "gram": "g", "gm": "g", "kilogram": "kg",
    "kilo": "kg", "dollar": "$", "\\$": "$", "usd": "$", "buck": "$", "degree": "deg", "liter": "l", "litre": "l",
    "milliliter": "ml", "millilitre": "ml", "yard": "yd", "mile": "mi", "lb": "pound", "ounce": "oz", "cu": "cubic",
    "cubed": "cubic", "squared": "square", "sq": "square", "celsius": "c", "fahrenheit": "f", "p.m": "pm", "a.m": "am",
    "milligram": "mg", "yr": "year", "wk": "week", "gal": "gallon", "qt": "quart", "tbsp": "tablespoon",
    "tsp": "teaspoon", "kph": "km per h", "cent": "cent",
}  # fmt: skip
"""Maps the other names of a unit, in the singular, to the one that is compared."""
_UNITS = """
    cm m km mm inch ft yd mi h min s g kg mg l ml $ deg c f pm am pound oz year week gallon quart tablespoon teaspoon
    mph square cubic unit micrometer nanometer decimeter hectare acre ton tonne stone carat pint cup barrel bushel peck
    dram fathom furlong league knot newton joule watt kilowatt volt ampere amp ohm hertz kelvin pascal mole calorie
    kilocalorie kcal cal byte bit kilobyte megabyte gigabyte mb gb kb pixel wpm rpm fps bpm degree arcminute arcsecond
    day month decade century millennium fortnight morning evening night weekday weekend birthday millisecond
    n j w v hz kw kwh
    penny pennie nickel dime cent dollar euro pound pence yen peso rupee franc mark crown shilling coin buck
    dap dop bap
"""
_COUNTED = """
    acorn adult animal ant apple apricot arrangement array arrow article atom author award baby babies back bag bagel
    ball balloon banana band bar barn baseball basket basketball bat batch batche bead beam bean bear bed bee beer
    bell berry berrie bicycle bike bill bin bird birdhouse biscuit block blouse board boat bolt bone book bookcase
    bookmark boot bottle bouquet bow bowl box boxe boy bracelet branch branche bread breath brick bridge brother brownie
    brush bucket bug building bulb bull bun bunch bunche bunny burger bus buse bush bushe business busine butterfly
    butterflie button cabbage cabinet cage cake call camera camper can candle candy candie cap car card carnation carrot
    cart carton case cashew cat caterpillar cattle cell chair chalk chance character cheese cherry cherrie chest chicken
    child children chip chocolate choice chore cigarette circle city citie clam class classe classmate classroom client
    clip clock clown club coach coat cob coconut color colour column combination comic committee company computer cone
    container contestant cookie corner cost couch counter couple coupon course cousin cow cowboy crab cracker crate
    crayon credit cricket crop cube cucumber cupcake curtain customer cut cycle cyclist daisy daisie dancer date
    daughter deer desk diagonal diamond dice die digit dinner dinosaur dish dishe divisor doctor dog doll dolphin domino
    donkey donut door dot doughnut dragon drawer drawing dress dresse drink driver drop drum duck duckling earring edge
    egg elective element elephant elf elve email employee engineer entree envelope episode equation eraser error
    event exam exercise eye face factor family familie fan farm farmer fence ferry fish fishe flag flamingo flavor
    flight floor flower fly flie follower football foul fox foxe freshman freshmen friend frog fruit function furrow
    game gift giraffe girl glass glasse glove gnome goal goat goldfish golfer grade grandchild grandchildren grape grave
    group guest guitar gumball gummy guy hair hamburger hamster hand handful handshake hat head heart hedge hen hippo
    hit hole home hook horse hot hotdog house household hurdle husband icecream insect instructor instrument integer
    interval invitation item jacket jar jelly jellybean jersey job joke jump juror key kid kilobyte kind king kit
    kitten knife knive koala lab ladybug lake lamp language lap laptop laugh layer leaf leave leg lego lemon lemonade
    length lesson letter level lie life line lion lioness list live lobster log lollipop loaf loave load lot lunch
    lunche machine magazine magnet man marble marker match matche meal meatball medal meeting melon member men message
    mentos mice minnow mint mistake mitten mommy monkey monster motorcycle mountain mouse move movie muffin mug multiple
    mushroom musician nail napkin necklace necktie neighbor nest net newspaper nickname notebook note novel number nurse
    nut oil olive onion option orange order ostrich outcome outfit oven owl owner oyster pack package packet pad page
    pail paint painting pair pan pancake panda pant paper paperclip parent parrot part participant passenger passe pass
    patch path patient pattern pea peach peache peacock peanut pear pebble pen pencil penguin people pepper peppercorn
    peppermint performer person pet petal phone photo photograph piano pickle picture pie piece pig pigeon pill pillow
    pin pine pirate pitcher pizza place plane planet plant plate player playground plum pod poem point pole polygon pond
    pony pool popcorn popsicle pose position possibility possibilitie post postcard poster pot potato potatoe prairie
    present pretzel prime prize problem professor profit program project pupil puppet puppy puppie purchase purse puzzle
    question quiz quizze rabbit race raccoon rack radish raffle raisin rat rate ray rectangle red region relative
    report reptile rhino ribbon ride ring river road robin rock roll roommate rope rose round row rubber rug ruler
    run runner sack safari sailor salad sale salmon sandwich sandwiche scarf scarve schedule scholarship school
    scoop seal seashell seat section seed segment selfie senator sequence series service serving session set shark sheep
    sheet shelf shelve shell ship shirt shoe shop shot shovel shrimp side sibling sign sink sister skateboard skip
    skirt skittle slice slide slot snack snail snake snowball snowflake snowman soccer sock soda sofa soldier solution
    song sophomore soup space sparrow spider sponge spoon spot squirrel stair stamp star state statue step stick
    sticker stop store story storie stranger straw strawberry strawberrie stream street string student subject subset
    suitcase sum sundae sunflower surfer sweater sweet swimmer swing symbol table tablet tail tank tape task taxi tea
    teacher team tennis tent term test text textbook theater thing tick ticket tie tiger tile time tire title toad toast
    toe token tomato tomatoe tool tooth teeth topping toucan towel town toy tractor train trainer trapezoid tray tree
    triangle tricycle trip truck trumpet tube tulip tuple turkey turn turtle twin type umbrella uniform vacation value
    van variable vase vegetable vehicle vertex vertice video visit visitor volleyball volunteer vote voter wagon waiter
    wall walnut wallet walrus war watch watche water watermelon wave way whale wheel whistle wife window wing winner
    winter wire wish wishe wolf wolve woman women wood word work worker workout worm wrap yam zebra zucchini
"""
_NEUTRAL = """
    of per each the in a an on at from her his their its my your our this that old tall long wide high deep away
    apart away total altogether together left remaining leftover more fewer extra additional different distinct
"""
"""Words that do not change a unit; they may stand alone: `36 fewer`."""
_ADJECTIVES = """
    positive nonnegative real whole natural prime even odd composite right acute obtuse isosceles equilateral scalene
    regular complex consecutive possible new free big small large little young short adult male female red blue green
    white black yellow brown pink purple orange golden silver possible
"""
_NEUTRAL += """
    feed food earned saved spent paid needed sold made given
    eaten used bought lost gained worked
    ice chip cream pizza money change savings income cash bonus profit loss tax tip sales cost price earning revenue
    weight height length width distance speed area volume perimeter
    every all both daily weekly monthly yearly annually week month
"""
_CHANGES = """
    half halve halves halved third thirds quarter quarters quartered double doubled doubling triple tripled triples
    twice thrice
    once dozen dozens gross score scores lakh lakhs crore crores myriad googol k million mil bn mn ten tens
    hundred hundreds thousand thousands millions billion billions trillion trillions quadrillion zero one two three four
    five six seven eight nine eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty
    forty fifty sixty seventy eighty ninety teen th ths st nd rd nth
    negative minus plus times multiplied multiply divided over add added subtract subtracted increased decreased reduced
    squared cubed root roots sqrt power exponent factorial choose mod modulo div percent percents percentage pct
    percentile
    radian radians rad grad gradian gradians base log ln sin cos tan cot csc exp pi e i x y z
    not no never non isn't wrong false incorrect without except but or and either neither nor if unless when where maybe
    perhaps probably about approximately roughly approx around nearly almost circa exactly most least below above under
    beyond than less greater between upto until minimum maximum min. infinity infinite inverse reciprocal opposite
    complement versus vs out is are does was rounded decimal off remainder again with for to by so thereof
    numerator denominator
"""
CHANGES = frozenset(_CHANGES.split())
"""Words that say something about the number: no unit contains one of them, even if the question uses it."""
_PART = re.compile(
    r"(?:[a-z]+-)?(?:fif|eigh|nin|twelf|[a-z]*(?:ten|teen|four|six|seven|eight|nine|eleven|tie|hundred|thousand|illion))"
    r"ths?|(?:half|quarter|third)s?-?[a-z]*ths?"
)
KNOWN = frozenset((*NAMES, *NAMES.values(), *_UNITS.split(), *_COUNTED.split()))
NEUTRAL = frozenset(_NEUTRAL.split())
ADJECTIVES = frozenset(_ADJECTIVES.split())


def changes(word: str) -> bool:
    """Whether a word changes the number that it follows: `tenths`, `dozen`, `negative`."""
    return word in CHANGES or _PART.fullmatch(word) is not None


def name(word: str) -> str:
    """Returns the compared name of a unit's word, in the singular."""
    singular = word[:-1] if len(word) > 2 and word.endswith("s") and not word.endswith("ss") else word
    return NAMES.get(word, NAMES.get(singular, singular))
