"""Texts of our own, for what needs running text: ten languages in eight scripts, and passages to rank.

Each language has the same eight sentences in its own words, with names, numbers, quotation marks and marks that
tokenizers treat apart. Made-up words and what trips a tokenizer lie in `tests.support.random_texts`.
"""

import random

from crossrank.export._read.texts import load_pairs

SENTENCES: dict[str, tuple[str, ...]] = {
    "en": (
        "The lighthouse on Gull Island was built in 1847, and its lamp can be seen from 23 miles away.",
        "Maria Jensen, who keeps it today, climbs all 214 steps twice a day – “for the view”, she says.",
        "In winter the ferry doesn't run, so flour, oil and letters are brought by helicopter.",
        "Every spring a dozen scientists count the puffins that nest below the cliffs.",
        "What do the birds eat? Mostly sand eels, which they catch up to 60 metres below the surface.",
        "The oldest map of the island, drawn in red and blue ink, hangs in the town hall of Port Aldous.",
        "Visitors pay 4.50 pounds; children under 12 and holders of a day ticket (see page 7) enter free.",
        "Since the storm of 2013 the north path is closed, because rocks fall there after heavy rain.",
    ),
    "de": (
        "Der Leuchtturm auf der Möweninsel wurde 1847 gebaut, und sein Licht ist 37 Kilometer weit zu sehen.",
        "Maria Jensen, die ihn hütet, steigt täglich zweimal die 214 Stufen hinauf – „wegen der Aussicht“, sagt sie.",
        "Im Winter fährt die Fähre nicht; Mehl, Öl und Briefe bringt dann der Hubschrauber.",
        "Jedes Frühjahr zählt ein Dutzend Wissenschaftler die Papageitaucher, die unterhalb der Klippen nisten.",
        "Was fressen die Vögel? Größtenteils Sandaale, die sie in bis zu 60 Metern Tiefe fangen.",
        "Die älteste Karte der Insel, mit roter und blauer Tinte gezeichnet, hängt im Rathaus von Port Aldous.",
        "Besucher zahlen 4,50 Euro; Kinder unter 12 Jahren (siehe Seite 7) haben freien Eintritt.",
        "Seit dem Sturm von 2013 ist der Nordpfad gesperrt, weil dort nach Starkregen Felsbrocken herabstürzen.",
    ),
    "es": (
        "El faro de la isla de las Gaviotas se construyó en 1847 y su luz se ve a 37 kilómetros de distancia.",
        "María Jensen, que hoy lo cuida, sube dos veces al día los 214 escalones: «por las vistas», dice.",
        "En invierno no hay transbordador, así que la harina, el aceite y las cartas llegan en helicóptero.",
        "Cada primavera una docena de científicos cuenta los frailecillos que anidan bajo los acantilados.",
        "¿Qué comen las aves? Sobre todo lanzones, que pescan hasta a 60 metros de profundidad.",
        "El mapa más antiguo de la isla, dibujado con tinta roja y azul, cuelga en el ayuntamiento de Port Aldous.",
        "Los visitantes pagan 4,50 euros; los niños menores de 12 años (véase la página 7) entran gratis.",
        "Desde la tormenta de 2013 el sendero del norte está cerrado, porque caen rocas después de las lluvias.",
    ),
    "fr": (
        "Le phare de l'île aux Mouettes fut construit en 1847, et sa lumière se voit à 37 kilomètres.",
        "Maria Jensen, qui le garde aujourd'hui, monte deux fois par jour ses 214 marches : « pour la vue », dit-elle.",
        "L'hiver, le bac ne circule pas ; la farine, l'huile et les lettres arrivent donc par hélicoptère.",
        "Chaque printemps, une douzaine de chercheurs comptent les macareux qui nichent sous les falaises.",
        "Que mangent ces oiseaux ? Surtout des lançons, qu'ils pêchent jusqu'à 60 mètres de profondeur.",
        "La plus ancienne carte de l'île, tracée à l'encre rouge et bleue, est accrochée à la mairie de Port Aldous.",
        "L'entrée coûte 4,50 euros ; elle est gratuite pour les enfants de moins de 12 ans (voir page 7).",
        "Depuis la tempête de 2013, le sentier nord est fermé, car des rochers y tombent après de fortes pluies.",
    ),
    "ru": (
        "Маяк на острове Чаек построили в 1847 году, и его свет виден за 37 километров.",
        "Мария Йенсен дважды в день поднимается по 214 ступеням — «ради вида», говорит она.",
        "Зимой паром не ходит, поэтому муку, масло и письма привозит вертолёт.",
        "Каждую весну десяток учёных пересчитывает тупиков, которые гнездятся под скалами.",
        "Чем питаются эти птицы? В основном песчанками, за которыми они ныряют на глубину до 60 метров.",
        "Самая старая карта острова, начерченная красными и синими чернилами, висит в ратуше Порт-Олдоса.",
        "Вход стоит 450 рублей; дети до 12 лет (см. страницу 7) проходят бесплатно.",
        "После бури 2013 года северная тропа закрыта: в сильный дождь там падают камни.",
    ),
    "ar": (
        "بُنيت منارة جزيرة النوارس عام 1847، ويمكن رؤية ضوئها من مسافة 37 كيلومترًا.",
        "تصعد ماريا ينسن، التي تعتني بها اليوم، درجاتها الـ214 مرتين كل يوم، «من أجل المنظر» كما تقول.",
        "لا تعمل العبّارة في الشتاء، ولذلك تُنقل الرسائل والدقيق والزيت بالمروحية.",
        "في كل ربيع يحصي اثنا عشر عالِمًا طيور البفن التي تعشش تحت المنحدرات.",
        "ماذا تأكل هذه الطيور؟ تأكل غالبًا أسماكًا صغيرة تصطادها على عمق يصل إلى ٦٠ مترًا.",
        "أقدم خريطة للجزيرة مرسومة بالحبر الأحمر والأزرق، وهي معلقة في مبنى البلدية.",
        "يدفع الزوار أربعة دنانير ونصفًا؛ أما الأطفال دون الثانية عشرة فيدخلون مجانًا (انظر الصفحة 7).",
        "أُغلق الدرب الشمالي منذ عاصفة عام 2013 لأن الصخور تسقط هناك بعد المطر الغزير.",
    ),
    "hi": (
        "गल द्वीप का प्रकाशस्तंभ 1847 में बना था और उसकी रोशनी 37 किलोमीटर दूर से दिखाई देती है।",
        "मारिया जेनसन, जो आज उसकी देखभाल करती हैं, दिन में दो बार 214 सीढ़ियाँ चढ़ती हैं – “दृश्य के लिए”, वे कहती हैं।",
        "सर्दियों में नाव नहीं चलती, इसलिए आटा, तेल और चिट्ठियाँ हेलीकॉप्टर से लाई जाती हैं।",
        "हर वसंत में बारह वैज्ञानिक चट्टानों के नीचे घोंसला बनाने वाले पक्षियों को गिनते हैं।",
        "ये पक्षी क्या खाते हैं? ज़्यादातर छोटी मछलियाँ, जिन्हें वे ६० मीटर की गहराई तक पकड़ते हैं।",
        "द्वीप का सबसे पुराना नक्शा, जो लाल और नीली स्याही से बना है, नगर भवन में टँगा है।",
        "प्रवेश शुल्क 450 रुपये है; 12 वर्ष से छोटे बच्चों के लिए प्रवेश निःशुल्क है (पृष्ठ 7 देखें)।",
        "2013 के तूफ़ान के बाद से उत्तरी रास्ता बंद है, क्योंकि तेज़ बारिश के बाद वहाँ पत्थर गिरते हैं।",
    ),
    "ko": (
        "갈매기섬의 등대는 1847년에 세워졌으며 그 불빛은 37킬로미터 밖에서도 보인다.",
        "지금 등대를 지키는 마리아 옌센은 하루에 두 번 214개의 계단을 오른다. “경치 때문이죠.”라고 그는 말한다.",
        "겨울에는 배가 다니지 않아서 밀가루와 기름과 편지를 헬리콥터로 나른다.",
        "해마다 봄이면 과학자 열두 명이 절벽 아래에 둥지를 트는 새들을 센다.",
        "이 새들은 무엇을 먹을까? 주로 까나리를 먹는데, 물속 60미터까지 들어가 잡는다.",
        "붉은 잉크와 푸른 잉크로 그린 가장 오래된 지도는 시청에 걸려 있다.",
        "입장료는 4,500원이고 열두 살 아래의 어린이는 무료이다(7쪽 참조).",
        "2013년 폭풍 뒤로 북쪽 길은 막혀 있다. 큰비가 온 뒤에 바위가 떨어지기 때문이다.",
    ),
    "zh": (
        "海鸥岛上的灯塔建于1847年，它的灯光在37公里以外都能看见。",
        "如今看守灯塔的玛丽亚·延森每天两次爬上214级台阶，她说：“是为了看风景。”",
        "冬天没有渡船，面粉、油和信件都由直升机运来。",
        "每年春天，十几位科学家来数在悬崖下筑巢的海鸟。",
        "这些鸟吃什么？主要是玉筋鱼，它们能潜到60米深处去捕捉。",
        "岛上最古老的地图是用红墨水和蓝墨水画的，挂在市政厅里。",
        "门票四块五；十二岁以下的儿童免费（见第7页）。",
        "自从2013年的风暴以后，北边的小路一直封闭，因为大雨过后那里常有落石。",
    ),
    "ja": (
        "カモメ島の灯台は1847年に建てられ、その光は37キロ先からも見える。",
        "いま灯台を守るマリア・イェンセンさんは一日に二度、214段の階段を上る。「景色のためです」と言う。",
        "冬は渡し船が出ないので、小麦粉や油や手紙はヘリコプターで運ばれる。",
        "毎年春になると、十数人の科学者が崖の下に巣を作る鳥を数える。",
        "この鳥は何を食べるのだろうか。おもにイカナゴで、深さ60メートルまで潜って捕る。",
        "赤と青のインクで描かれた島のいちばん古い地図は、町役場に掛かっている。",
        "入場料は450円、12歳未満の子どもは無料（7ページ参照）。",
        "2013年の嵐のあと、北の道は大雨のたびに岩が落ちるため通れない。",
    ),
}  # fmt: skip
# Without spaces between words a text has no place where it can be cut.
SPACED = tuple(language for language in SENTENCES if language not in ("zh", "ja"))

QUERY = "why do leaves change colour in autumn?"
_ANSWERS = (
    "As days shorten, a tree stops making chlorophyll. Its leaves lose their green, and the yellow and orange pigments "
    "that they held all summer can be seen.",
    "The reds of maples come in autumn, when the leaves make anthocyanin from sugar that is trapped in them.",
    "Leaves change colour in autumn because the green pigment breaks down before the others do.",
    "Plan the drive for the second week of October, when the autumn leaves along the valley road are at their best.",
    "Evergreen needles have a waxy coat, so they survive frost and stay green all winter.",
    "Rake fallen leaves onto a compost heap in thin layers, and keep them damp so that they rot by spring.",
)


def running_text(language: str, sentences: int, seed: int = 0) -> str:
    """Sentences of a language, in an order of the seed's."""
    return " ".join(random.Random(seed).choices(SENTENCES[language], k=sentences))


def ranked_passages(count: int) -> list[str]:
    """Different passages for `QUERY`: answers, neighbours of the subject, and what has nothing to do with it."""
    others = dict.fromkeys(document for _, document in load_pairs("proof") if document)
    passages = [*_ANSWERS, *others][:count]
    assert len(passages) == count
    return passages
