// The API page: Swagger UI on the server's own description. A key that is entered here stays in its memory.

window.SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  persistAuthorization: false,
  validatorUrl: null, // it would send the description to swagger.io
});
