/**
 * Inputs to try the page with. Written for it; any resemblance to real announcements is made up.
 */

/** @typedef {{name: {zh: string, en: string}, query: string, instruction: string, documents: string[]}} Example */

const APPLES = [
  "今年秋天苹果发布了新款手机，电池更耐用，摄像头换成了更大的传感器。",
  "瑞阳是西北农林科技大学选育的苹果新品种，果面光洁，脆甜多汁，晚熟耐贮。",
  "苹果每一百克约含五十三千卡热量，富含果胶和钾，带皮吃膳食纤维更多。",
  "分析师预计苹果下一季度的耳机和手表出货量将增长一成。",
  "果园今年引进了三个早熟苹果新品种，七月下旬即可采摘上市。",
  "苹果削皮后容易变褐，是因为果肉里的多酚在空气中氧化，泡淡盐水可以减缓。",
  "这款平板电脑是苹果今年推出的第一款折叠屏新品，展开后有十二英寸。",
  "香蕉和梨不宜与苹果放在一起存放，苹果释放的乙烯会加快它们成熟。",
];

/** @type {Example[]} */
export const EXAMPLES = [
  {
    name: { zh: "苹果 = 公司", en: "Apple, the company (zh)" },
    query: "苹果今年有哪些新品",
    instruction: "Given a question about the technology company Apple, retrieve passages about its products, not about the fruit",
    documents: APPLES,
  },
  {
    name: { zh: "苹果 = 水果", en: "Apple, the fruit (zh)" },
    query: "苹果今年有哪些新品",
    instruction: "Given a question about apples as a fruit, retrieve passages about new cultivars, not about the company",
    documents: APPLES,
  },
  {
    name: { zh: "英文：重置密码", en: "Password reset" },
    query: "How do I reset a password I have forgotten?",
    instruction: "",
    documents: [
      "To change your email address, open Account, choose Contact details and confirm the link that we send you.",
      "Forgotten your password? Choose “Sign in”, then “Reset password”, and follow the link in the message within one hour.",
      "Passwords need at least twelve characters and are stored as salted hashes.",
      "If the reset message does not arrive, look in the spam folder, then ask an administrator to send a new link.",
      "The password manager fills in saved passwords on known sites.",
      "Reset the router by holding its button for ten seconds until the lamp turns amber.",
      "Administrators can require everyone to choose a new password every ninety days.",
      "Our offices are closed on public holidays.",
    ],
  },
  {
    name: { zh: "中文问、英文答", en: "Chinese question, English texts" },
    query: "长途飞行之后怎样更快倒时差？",
    instruction: "Given a question in Chinese, retrieve passages in any language that answer it",
    documents: [
      "Bright light in the morning after an eastward flight moves the body clock forward and shortens jet lag.",
      "Airlines weigh hand luggage at the gate and charge for every kilogram above the limit.",
      "到达后按当地时间吃饭和睡觉，白天多晒太阳，通常两三天就能适应。",
      "Flights across the date line arrive on the calendar day before they left.",
      "Short naps of at most twenty minutes help on the first day; longer ones delay the adjustment.",
      "机场快线每二十分钟一班，末班车在零点十五分发车。",
      "Small doses of melatonin at the destination's bedtime can help travellers who crossed five or more time zones.",
      "The seat map shows which rows have extra legroom.",
    ],
  },
];
