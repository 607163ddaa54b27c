// Ours, and a file of its own: the Content-Security-Policy runs no script that stands in a page.
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  validatorUrl: null, // else a site of others is told about this one
});
