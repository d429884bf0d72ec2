// What the viewer is told before it starts: where the images are, how they hang, in which windows they are read.
// The page says on <html> whose session it is and in which language. No other origin is asked for anything.
'use strict';

(() => {
  const page = document.documentElement.dataset;
  const words = JSON.parse(page.words);
  const [study] = (new URLSearchParams(window.location.search).get('StudyInstanceUIDs') || '').split(',');
  const signIn = () =>
    window.location.assign('/sign-in?next=' + encodeURIComponent(window.location.pathname + window.location.search));

  window.PUBLIC_URL = '/viewer/';
  window.browserImportFunction = name => import(name);
  document.cookie = 'i18next=' + page.viewerLanguage + ';path=/viewer;samesite=strict';

  // A report that is stored is an unsafe request of this session, and bears its token.
  const send = XMLHttpRequest.prototype.send;
  const open = XMLHttpRequest.prototype.open;
  XMLHttpRequest.prototype.open = function (method, address, ...rest) {
    this.isUnsafe = !['GET', 'HEAD', 'OPTIONS'].includes(method.toUpperCase());
    this.isOurs = new URL(address, window.location.href).origin === window.location.origin;
    return open.call(this, method, address, ...rest);
  };
  XMLHttpRequest.prototype.send = function (body) {
    if (this.isUnsafe && this.isOurs) {
      this.setRequestHeader('X-CSRF-Token', page.csrf);
    }
    return send.call(this, body);
  };

  // Series of one study: the image of the recipe that was asked for, the routine recipe beside it, the noise map of the
  // image. Maps are CT series of their own, numbers 901 and 902, in the image's frame of reference.
  const isMap = one => Number(one.SeriesNumber) >= 900 && Number(one.SeriesNumber) < 1000;
  const isImage = one => one.Modality === 'CT' && one.numImageFrames > 1 && !isMap(one);
  const isRoutine = one => (one.SeriesDescription || '').startsWith('routine');

  function roles(displaySets) {
    const images = displaySets.filter(isImage);
    const asked = images.find(one => !isRoutine(one)) || images[0] || displaySets.find(one => one.numImageFrames > 0);
    const named = asked && 'noise map of ' + asked.SeriesDescription;
    return {
      image: asked,
      comparison: images.find(one => one !== asked && isRoutine(one)) || images.find(one => one !== asked),
      noise: asked && displaySets.find(one => isMap(one) && named.startsWith(one.SeriesDescription)),
    };
  }

  function roleOf(displaySet, { displaySets }) {
    const found = Object.entries(roles(displaySets)).find(([, one]) => one === displaySet);
    return found ? found[0] : 'other';
  }

  const selector = role => ({
    seriesMatchingRules: [{ attribute: 'lampyrisRole', constraint: { equals: { value: role } }, required: true }],
  });
  const together = [
    { type: 'imageSlice', id: 'slices', source: true, target: true },
    { type: 'zoompan', id: 'places', source: true, target: true },
  ];
  const plain = role => ({
    viewportOptions: {
      viewportId: role,
      viewportType: 'stack',
      toolGroupId: 'default',
      initialImageOptions: { preset: 'middle' },
      syncGroups: [...together, { type: 'voi', id: 'window', source: true, target: true }],
    },
    displaySets: [{ id: role }],
  });
  const overlaid = {
    viewportOptions: {
      viewportId: 'overlay',
      viewportType: 'volume',
      orientation: 'acquisition',
      toolGroupId: 'default',
      initialImageOptions: { preset: 'middle' },
      syncGroups: [{ type: 'imageSlice', id: 'slices', source: true, target: true }],
    },
    displaySets: [
      { id: 'image' },
      {
        id: 'noise',
        options: { colormap: { name: 'hot_iron', opacity: [{ value: 0, opacity: 0 }, { value: 1, opacity: 0.7 }] } },
      },
    ],
  };
  const stage = (name, ...viewports) => ({
    name,
    stageActivation: { enabled: { minViewportsMatched: viewports.length } },
    viewportStructure: { layoutType: 'grid', properties: { rows: 1, columns: viewports.length } },
    viewports,
  });
  const protocol = {
    id: 'lampyris',
    name: 'Lampyris',
    protocolMatchingRules: [],
    toolGroupIds: ['default'],
    numberOfPriorsReferenced: -1,
    defaultViewport: {
      viewportOptions: { viewportType: 'stack', toolGroupId: 'default', allowUnmatchedView: true },
      displaySets: [{ id: 'image', matchedDisplaySetsIndex: -1 }],
    },
    displaySetSelectors: { image: selector('image'), comparison: selector('comparison'), noise: selector('noise') },
    stages: [
      stage('image, comparison, noise', plain('image'), plain('comparison'), overlaid),
      stage('image, noise', plain('image'), overlaid),
      stage('image, comparison', plain('image'), plain('comparison')),
      stage('image', plain('image')),
    ],
  };
  const extension = {
    id: 'lampyris',
    preRegistration: ({ servicesManager }) => {
      servicesManager.services.hangingProtocolService.addCustomAttribute('lampyrisRole', 'role of a series', roleOf);
    },
    getHangingProtocolModule: () => [{ name: protocol.id, protocol }],
  };

  window.config = {
    name: 'lampyris',
    routerBasename: '/viewer',
    extensions: [extension],
    modes: ['@ohif/mode-basic'],
    modesConfiguration: {
      '@ohif/mode-basic': {
        routeName: { $set: 'read' },
        displayName: { $set: 'Lampyris' },
        hangingProtocol: { $set: 'lampyris' },
        // Three panes need the width; the list of measurements opens with the first one.
        routes: { 0: { layoutInstance: { props: { leftPanelClosed: { $set: true }, rightPanelClosed: { $set: true } } } } },
      },
    },
    customizationService: {
      global: {
        'cornerstone.windowLevelPresets': {
          $merge: {
            CT: [
              { id: 'ct-lung', description: words.lung, window: '1500', level: '-600' },
              { id: 'ct-soft-tissue', description: words.soft, window: '400', level: '40' },
              { id: 'ct-bone', description: words.bone, window: '1500', level: '300' },
              { id: 'ct-brain', description: words.brain, window: '80', level: '40' },
            ],
          },
        },
      },
    },
    whiteLabeling: {
      createLogoComponentFn: React =>
        React.createElement(
          'a',
          { href: '/studies/' + encodeURIComponent(study), className: 'lampyris-mark', title: words.back },
          React.createElement('b', null, 'Lampyris'),
          React.createElement('span', null, words.research)
        ),
    },
    showStudyList: false,
    investigationalUseDialog: { option: 'never' }, // said in the bar, at all times
    maxNumberOfWebWorkers: Math.max(1, Math.min(3, navigator.hardwareConcurrency - 1)), // the page itself needs a core
    showWarningMessageForCrossOrigin: false,
    showCPUFallbackMessage: true,
    showLoadingIndicator: true,
    strictZSpacingForVolumeViewport: true,
    showErrorDetails: 'production',
    maxNumRequests: { interaction: 100, thumbnail: 5, prefetch: 25 },
    defaultDataSourceName: 'lampyris',
    dataSources: [
      {
        namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
        sourceName: 'lampyris',
        configuration: {
          friendlyName: 'Lampyris',
          name: 'lampyris',
          qidoRoot: '/dicomweb',
          wadoRoot: '/dicomweb',
          wadoUriRoot: '/dicomweb',
          qidoSupportsIncludeField: true,
          imageRendering: 'wadors',
          thumbnailRendering: 'wadors',
          enableStudyLazyLoad: true,
          supportsFuzzyMatching: false,
          supportsWildcard: true,
          singlepart: 'bulkdata,pdf',
          omitQuotationForMultipartRequest: true,
          bulkDataURI: { enabled: true },
        },
      },
    ],
    httpErrorHandler: error => {
      if (error.status === 401) {
        signIn();
      }
    },
  };
})();
