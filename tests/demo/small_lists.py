"""Twenty easy questions, half English, half Chinese: one right passage, first, and three wrong ones.

Written for this project.
"""

from __future__ import annotations

ENGLISH: list[tuple[str, list[str]]] = [
    (
        "What do honey bees collect from flowers?",
        [
            "Honey bees fly from flower to flower and collect nectar and pollen, which they carry home.",
            "The old bridge over the river was closed for repairs until the end of the summer.",
            "A good loaf of bread needs flour, water, salt, yeast and a hot oven.",
            "Trains to the coast leave from platform four every hour on weekdays.",
        ],
    ),
    (
        "How many legs does a spider have?",
        [
            "A spider has eight legs and is therefore not an insect, because insects have only six.",
            "The library lends books for four weeks and films for one week.",
            "Paint dries slowly when the air in the room is cold and damp.",
            "The orchestra will play two symphonies and a short overture tonight.",
        ],
    ),
    (
        "Which program compresses files into archives?",
        [
            "This program compresses files and folders into archives and can unpack many archive formats.",
            "The museum shows paintings by local artists from the last two centuries.",
            "Swallows return in spring and build their nests below the roof.",
            "Soup tastes better when the vegetables are roasted first.",
        ],
    ),
    (
        "Where are penguins found in the wild?",
        [
            "Wild penguins are found almost only south of the equator, many on the coast of Antarctica.",
            "The council decided to plant forty new trees along the main street.",
            "Chess is played on a board of sixty-four squares.",
            "A sharp pencil and a ruler are all that the exercise needs.",
        ],
    ),
    (
        "Who repaired the clock of the town hall?",
        [
            "The clock of the town hall was repaired by a watchmaker from the next village.",
            "Potatoes should be stored in a dark and cool cellar.",
            "Our printer is out of paper, and the ink is almost empty as well.",
            "The lighthouse stands on a rock about two miles from the harbour.",
        ],
    ),
    (
        "text editor with syntax highlighting",
        [
            "A small text editor with syntax highlighting for more than fifty programming languages.",
            "This library reads and writes images of several medical scanners.",
            "A card game for two players in which the highest trump wins.",
            "Daemon that synchronises the computer's time with a server on the network.",
        ],
    ),
    (
        "Why do leaves change colour in autumn?",
        [
            "In autumn the leaves of many trees change colour, because the green chlorophyll breaks down.",
            "The ferry does not sail when the wind is stronger than nine.",
            "Fresh coffee is ground just before it is brewed.",
            "Every student receives a key to the laboratory in the first week.",
        ],
    ),
    (
        "At what temperature does water boil at sea level?",
        [
            "At sea level water boils at a temperature of one hundred degrees Celsius, on mountains sooner.",
            "The novel tells the story of three sisters who open a bakery.",
            "Please wipe your shoes before you enter the house.",
            "The goalkeeper was injured in the first half and had to be replaced.",
        ],
    ),
    (
        "music player for the command line",
        [
            "A light music player for the command line that plays common audio formats and keeps playlists.",
            "Fonts for writing the languages of the Caucasus.",
            "Tools to check and repair a damaged file system.",
            "Weather station software that draws charts of rain and wind.",
        ],
    ),
    (
        "When was the new hospital in the valley opened?",
        [
            "The new hospital in the valley was opened in 1987 and has two hundred beds.",
            "Cats sleep for more than half of the day.",
            "Copper conducts electricity better than iron does.",
            "The recipe asks for three eggs and a cup of sugar.",
        ],
    ),
]

CHINESE: list[tuple[str, list[str]]] = [
    (
        "蜜蜂从花里采集什么？",
        [
            "蜜蜂在花丛中飞来飞去，采集花蜜和花粉，然后带回蜂巢。",
            "这座老桥正在维修，夏天结束以前不能通行。",
            "面包需要面粉、水、盐和酵母。",
            "开往海边的火车每小时一班。",
        ],
    ),
    (
        "蜘蛛有几条腿？",
        [
            "蜘蛛有八条腿，所以它不是昆虫，昆虫只有六条腿。",
            "图书馆的书可以借四个星期。",
            "房间里又冷又湿的时候，油漆干得很慢。",
            "乐团今晚演奏两首交响曲。",
        ],
    ),
    (
        "哪个程序可以压缩文件？",
        [
            "这个程序可以压缩文件和目录，也能解开多种格式的压缩包。",
            "博物馆展出本地画家的作品。",
            "燕子春天回来，在屋檐下筑巢。",
            "先把蔬菜烤一下，汤会更好喝。",
        ],
    ),
    (
        "野生企鹅生活在哪里？",
        [
            "野生企鹅几乎只生活在赤道以南，很多在南极洲的海岸。",
            "市政府决定在大街两旁种四十棵树。",
            "国际象棋的棋盘有六十四个格子。",
            "做这道练习题只要一支铅笔和一把尺子。",
        ],
    ),
    (
        "谁修好了市政厅的大钟？",
        [
            "市政厅的大钟是邻村的一位钟表匠修好的。",
            "土豆应该放在阴凉黑暗的地窖里。",
            "打印机没有纸了，墨水也快用完了。",
            "灯塔在离港口两英里的一块岩石上。",
        ],
    ),
    (
        "支持语法高亮的文本编辑器",
        [
            "一个小巧的文本编辑器，支持五十多种编程语言的语法高亮。",
            "这个库用来读写医学扫描仪的图像。",
            "一种两个人玩的纸牌游戏。",
            "与网络上的服务器同步时间的守护进程。",
        ],
    ),
    (
        "树叶为什么在秋天变颜色？",
        [
            "秋天，许多树的树叶会变颜色，因为绿色的叶绿素分解了。",
            "风力超过九级的时候渡轮停航。",
            "咖啡最好现磨现煮。",
            "每个学生第一周都会领到实验室的钥匙。",
        ],
    ),
    (
        "水在多少度沸腾？",
        [
            "在海平面上，水在一百摄氏度沸腾，在高山上沸腾得更早。",
            "小说讲的是三姐妹开面包店的故事。",
            "进屋以前请把鞋擦干净。",
            "守门员上半场受了伤，被换下场。",
        ],
    ),
    (
        "命令行音乐播放器",
        [
            "一个轻量的命令行音乐播放器，能播放常见的音频格式。",
            "用来书写高加索地区语言的字体。",
            "检查和修复损坏的文件系统的工具。",
            "气象站软件，可以画出雨量和风速的图表。",
        ],
    ),
    (
        "山谷里的新医院是哪一年开业的？",
        [
            "山谷里的新医院是1987年开业的，有两百张病床。",
            "猫一天有一半以上的时间在睡觉。",
            "铜的导电性比铁好。",
            "这个菜谱需要三个鸡蛋和一杯糖。",
        ],
    ),
]
